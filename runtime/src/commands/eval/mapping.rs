//! Classes in `hsg eval`: those that the model's bank and the data set have in common.
//!
//! Pixels whose true class the bank does not know are left out, like unlabelled ones; a predicted class that the data set
//! does not have is no class of the comparison, so such a pixel is missed. The report says which classes these are.

use std::path::Path;

use anyhow::ensure;
use datasets::Dataset;
use runtime::pipeline::Deployment;
use segcore::label_mapping::LabelMapping;
use segcore::label_space::{CLASSES_FILE, IGNORE, LabelSpace};
use serde::{Deserialize, Serialize};

/// The classes that are measured.
pub(super) struct MeasuredClasses {
    mapping: LabelMapping,
    /// What the report says; none when model and data set have the same classes in the same order.
    report: Option<MappingReport>,
}

/// `label_mapping` in the evaluation JSON: how two label spaces were compared.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MappingReport {
    /// Label space of the model's bank.
    model: String,
    /// Label space of the data set.
    data: String,
    common: Vec<CommonReport>,
    /// Classes of the model that the data set does not have: predicted, they are misses.
    only_model: Vec<String>,
    /// Classes of the data set that the model does not know: their pixels are left out.
    only_data: Vec<String>,
}

/// A class that is measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct CommonReport {
    name: String,
    model: Vec<String>,
    data: Vec<String>,
}

impl MeasuredClasses {
    /// The common classes of a model and a data set in the folder `root`.
    ///
    /// # Errors
    /// When there is none: both sides are listed.
    pub(super) fn new(deployment: &Deployment, dataset: &dyn Dataset, root: &Path) -> anyhow::Result<Self> {
        let (model, data) = (deployment.label_space(), dataset.label_space());
        let mapping = LabelMapping::between(model, &data);
        let names = |space: &LabelSpace| -> Vec<String> { space.classes.iter().map(|c| c.name.clone()).collect() };
        ensure!(
            !mapping.common().is_empty(),
            "{}: the model's classes ({}: {}) and those of {} ({}) have none in common, so nothing can be measured; \
             make a bank of the data set's classes with `hsg bank build`, or give the classes in its {CLASSES_FILE} \
             names that the model has",
            deployment.folder().path().display(),
            model.name,
            names(model).join(", "),
            root.display(),
            names(&data).join(", "),
        );
        let report = (names(model) != names(&data)).then(|| MappingReport::new(model, &data, &mapping));
        Ok(Self { mapping, report })
    }

    /// Number of classes that are measured.
    pub(super) fn num_classes(&self) -> usize {
        self.mapping.common().len()
    }

    /// The classes that are measured.
    pub(super) fn space(&self) -> &LabelSpace {
        self.mapping.space()
    }

    /// What the report says of it, if the label spaces differ.
    pub(super) fn report(&self) -> Option<MappingReport> {
        self.report.clone()
    }

    /// Replaces the data set's train ids by those of the common classes; [`IGNORE`] where there is none.
    pub(super) fn map_truth(&self, train_ids: &mut [u8]) {
        apply(self.mapping.of_second(), train_ids);
    }

    /// Replaces the model's train ids by those of the common classes; [`IGNORE`], a miss, where there is none.
    pub(super) fn map_prediction(&self, train_ids: &mut [u8]) {
        apply(self.mapping.of_first(), train_ids);
    }
}

fn apply(table: &[u8; 256], train_ids: &mut [u8]) {
    for train_id in train_ids {
        *train_id = table[usize::from(*train_id)];
    }
}

impl MappingReport {
    fn new(model: &LabelSpace, data: &LabelSpace, mapping: &LabelMapping) -> Self {
        let names = |space: &LabelSpace, ids: &[u8]| -> Vec<String> {
            ids.iter().filter_map(|&id| space.class(id)).map(|class| class.name.clone()).collect()
        };
        let left_out = |space: &LabelSpace, table: &[u8; 256]| -> Vec<String> {
            let is_left_out = |id: u8| table[usize::from(id)] == IGNORE;
            space.classes.iter().filter(|c| is_left_out(c.train_id.0)).map(|c| c.name.clone()).collect()
        };
        let common = mapping.common().iter().map(|class| CommonReport {
            name: class.name.clone(),
            model: names(model, &class.first),
            data: names(data, &class.second),
        });
        Self {
            model: model.name.clone(),
            data: data.name.clone(),
            common: common.collect(),
            only_model: left_out(model, mapping.of_first()),
            only_data: left_out(data, mapping.of_second()),
        }
    }

    /// For people: what is compared, and what is left out.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "the model's classes are {}, the data set's are {}: measured are the {} that both have\n",
            self.model,
            self.data,
            self.common.len()
        );
        for CommonReport { name, model, data } in &self.common {
            if model.len() > 1 || data.len() > 1 || model != data {
                text.push_str(&format!("  {name}: {} = {}\n", model.join(" + "), data.join(" + ")));
            }
        }
        let left_out = [
            (&self.only_data, "left out, because the model does not know them"),
            (&self.only_model, "misses where predicted, because the data set does not have them"),
        ];
        for (names, what) in left_out {
            if !names.is_empty() {
                text.push_str(&format!("  {what}: {}\n", names.join(", ")));
            }
        }
        text
    }
}
