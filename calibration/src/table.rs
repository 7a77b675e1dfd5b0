//! `calibration.json`: what was observed, on which frames, of which model.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{CalibrationError, Result};
use crate::histogram::Histogram;

/// Version of the file's form.
pub const FORMAT_VERSION: u32 = 1;

/// Activations of one model on some frames. Tables of other frames of the same model can be merged, in any order, with the
/// same result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    format_version: u32,
    /// Hash of the model's files.
    pub model_hash: String,
    /// Names of the frames observed; none counts twice.
    pub frames: BTreeSet<String>,
    /// By the name of the tensor.
    pub tensors: BTreeMap<String, Histogram>,
}

impl Table {
    /// An empty table of a model.
    pub fn new(model_hash: &str) -> Self {
        Table {
            format_version: FORMAT_VERSION,
            model_hash: model_hash.to_owned(),
            frames: BTreeSet::new(),
            tensors: BTreeMap::new(),
        }
    }

    /// Adds a frame's activations; `false` when the frame is in it already, and nothing is added.
    ///
    /// # Errors
    /// [`CalibrationError::NotFinite`], and [`CalibrationError::OtherTensors`] when the frame has other tensors than those
    /// before; nothing is added then.
    pub fn add(&mut self, frame: &str, activations: &[(&str, &[f32])]) -> Result<bool> {
        if self.frames.contains(frame) {
            return Ok(false);
        }
        let mut added = BTreeMap::new();
        for (tensor, values) in activations {
            let mut histogram = Histogram::default();
            histogram.observe(tensor, values)?;
            added.insert((*tensor).to_owned(), histogram);
        }
        self.merge_tensors(&added)?;
        self.frames.insert(frame.to_owned());
        Ok(true)
    }

    /// Adds another table.
    ///
    /// # Errors
    /// [`CalibrationError::OtherModel`], [`CalibrationError::SameFrame`], [`CalibrationError::OtherTensors`]; nothing is
    /// added then.
    pub fn merge(&mut self, other: &Table) -> Result<()> {
        other.belongs_to(&self.model_hash)?;
        if let Some(frame) = self.frames.intersection(&other.frames).next() {
            return Err(CalibrationError::SameFrame { frame: frame.clone() });
        }
        self.merge_tensors(&other.tensors)?;
        self.frames.extend(other.frames.iter().cloned());
        Ok(())
    }

    /// Refuses a table of another model.
    ///
    /// # Errors
    /// [`CalibrationError::OtherModel`].
    pub fn belongs_to(&self, model_hash: &str) -> Result<()> {
        if self.model_hash == model_hash {
            return Ok(());
        }
        Err(CalibrationError::OtherModel { expected: model_hash.to_owned(), got: self.model_hash.clone() })
    }

    fn merge_tensors(&mut self, other: &BTreeMap<String, Histogram>) -> Result<()> {
        if !self.tensors.is_empty() && !other.is_empty() {
            let names = |tensors: &BTreeMap<String, Histogram>| tensors.keys().cloned().collect::<BTreeSet<_>>();
            if let Some(tensor) = names(&self.tensors).symmetric_difference(&names(other)).next() {
                return Err(CalibrationError::OtherTensors { tensor: tensor.clone() });
            }
        }
        for (name, histogram) in other {
            self.tensors.entry(name.clone()).or_default().merge(histogram);
        }
        Ok(())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`CalibrationError::Damaged`].
    pub fn from_json(text: &str) -> Result<Self> {
        let table: Table =
            serde_json::from_str(text).map_err(|error| CalibrationError::Damaged { what: error.to_string() })?;
        if table.format_version != FORMAT_VERSION {
            let what = format!("format {FORMAT_VERSION} was expected, it has {}", table.format_version);
            return Err(CalibrationError::Damaged { what });
        }
        Ok(table)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// [`CalibrationError::Damaged`], which cannot happen to a table that was built here.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| CalibrationError::Damaged { what: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(frames: &[(&str, f32)]) -> Table {
        let mut table = Table::new("abc");
        for (frame, value) in frames {
            assert!(table.add(frame, &[("x", &[*value, -1.0]), ("y", &[0.5])]).unwrap());
        }
        table
    }

    #[test]
    fn parts_add_up_to_the_whole_in_any_order() {
        let whole = table(&[("a", 1.0), ("b", 200.0), ("c", 0.01)]);
        let parts = [table(&[("c", 0.01)]), table(&[("b", 200.0), ("a", 1.0)])];
        for order in [[0, 1], [1, 0]] {
            let mut merged = Table::new("abc");
            order.iter().for_each(|&part| merged.merge(&parts[part]).unwrap());
            assert_eq!(merged.to_json().unwrap(), whole.to_json().unwrap());
        }
        assert_eq!(Table::from_json(&whole.to_json().unwrap()).unwrap(), whole);
    }

    #[test]
    fn what_does_not_belong_is_refused_and_changes_nothing() {
        let mut held = table(&[("a", 1.0)]);
        let before = held.clone();
        assert!(!held.add("a", &[("x", &[9.0])]).unwrap());
        assert!(held.add("b", &[("x", &[f32::NAN]), ("y", &[1.0])]).unwrap_err().to_string().contains("`x`"));
        assert!(held.add("b", &[("z", &[1.0])]).is_err());
        assert!(held.merge(&table(&[("a", 2.0)])).unwrap_err().to_string().contains("frame `a`"));
        let other = Table { model_hash: "def".into(), ..table(&[("b", 1.0)]) };
        assert!(held.merge(&other).unwrap_err().to_string().contains("def"));
        assert_eq!(held, before);
        assert!(Table::from_json("{}").is_err());
        let newer = held.to_json().unwrap().replacen("\"format_version\":1", "\"format_version\":2", 1);
        assert!(Table::from_json(&newer).unwrap_err().to_string().contains("format 1"));
    }
}
