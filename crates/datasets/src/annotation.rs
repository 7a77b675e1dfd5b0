//! Annotation files: values in the file → train ids.

use std::path::Path;

use segcore::image::ImageSize;
use segcore::label_space::LabelSpace;

use crate::{DatasetError, SampleEntry, header};

/// The annotation of one image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Annotation {
    /// Size of the image and of this map.
    pub size: ImageSize,
    /// Train id of every pixel, `[height, width]` row-major; 255 = ignore.
    pub train_ids: Vec<u8>,
    /// Instance id of every pixel, `[height, width]` row-major; 0 = none or a crowd. It counts within its class. `None`
    /// where the data set has no instances.
    pub instance_ids: Option<Vec<u16>>,
}

/// Train id of pixels that no measure looks at.
pub(crate) const IGNORE: u8 = 255;

/// What the values of a data set's annotation files mean.
pub(crate) struct AnnotationValues {
    label_space: String,
    /// Train id of every value; `None` for a value that must not occur.
    train_ids: [Option<u8>; 256],
}

impl AnnotationValues {
    /// The classes' ids and one more value for `ignore`, if there is one.
    pub(crate) fn new(label_space: &LabelSpace, ignore: Option<u8>) -> Self {
        let mut train_ids = [None; 256];
        for class in &label_space.classes {
            if let Ok(value) = u8::try_from(class.class_id.0) {
                train_ids[usize::from(value)] = Some(class.train_id.0);
            }
        }
        if let Some(ignore) = ignore {
            train_ids[usize::from(ignore)] = Some(IGNORE);
        }
        Self { label_space: label_space.name.clone(), train_ids }
    }

    /// Ignores these values where they are no class.
    pub(crate) fn or_ignored(mut self, values: impl Iterator<Item = u8>) -> Self {
        for value in values {
            self.train_ids[usize::from(value)].get_or_insert(IGNORE);
        }
        self
    }

    /// Reads the 8-bit grey annotation of `entry` and checks size and values.
    pub(crate) fn read(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        let path =
            entry.annotation.as_deref().ok_or_else(|| DatasetError::NoAnnotation { image: entry.image.clone() })?;
        let file = segcore::image_io::read_gray8(path)?;
        check_size(entry, path, file.size)?;
        let mut train_ids = file.pixels;
        self.map(path, file.size, &mut train_ids)?;
        Ok(Annotation { size: file.size, train_ids, instance_ids: None })
    }

    /// Replaces the values of the file `path` by train ids.
    pub(crate) fn map(&self, path: &Path, size: ImageSize, values: &mut [u8]) -> Result<(), DatasetError> {
        for (at, value) in values.iter_mut().enumerate() {
            match self.train_ids[usize::from(*value)] {
                Some(train_id) => *value = train_id,
                None => return Err(self.unknown_value(path, *value, at, size.width)),
            }
        }
        Ok(())
    }

    fn unknown_value(&self, path: &Path, value: u8, at: usize, width: usize) -> DatasetError {
        DatasetError::AnnotationValue {
            path: path.to_owned(),
            value,
            x: at % width,
            y: at / width,
            label_space: self.label_space.clone(),
            expected: self.known_values(),
        }
    }

    /// The values in words: `0, 1, 2` or, where more than two follow each other, `0–33`.
    fn known_values(&self) -> String {
        let known: Vec<usize> = (0..256).filter(|value| self.train_ids[*value].is_some()).collect();
        let runs = known.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
            [first, .., last] if run.len() > 2 => format!("{first}–{last}"),
            _ => run.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
        });
        runs.collect::<Vec<_>>().join(", ")
    }
}

/// Fails when the annotation `path` of `entry` has another size than its image.
pub(crate) fn check_size(entry: &SampleEntry, path: &Path, got: ImageSize) -> Result<(), DatasetError> {
    let expected = header::read_size(&entry.image)?;
    if got == expected {
        return Ok(());
    }
    Err(DatasetError::AnnotationSize { path: path.to_owned(), image: entry.image.clone(), expected, got })
}
