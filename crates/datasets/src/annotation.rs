//! Annotation files: values in the file → train ids.

use std::path::Path;

use segcore::image::ImageSize;
use segcore::label_space::LabelSpace;

use crate::{DatasetError, SampleEntry};

/// The annotation of one image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Annotation {
    /// Size of the image and of this map.
    pub size: ImageSize,
    /// Train id of every pixel, `[height, width]` row-major; 255 = ignore.
    pub train_ids: Vec<u8>,
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
    /// The classes' ids and one more value for `ignore`.
    pub(crate) fn new(label_space: &LabelSpace, ignore: u8) -> Self {
        let mut train_ids = [None; 256];
        for class in &label_space.classes {
            if let Ok(value) = u8::try_from(class.class_id.0) {
                train_ids[usize::from(value)] = Some(class.train_id.0);
            }
        }
        train_ids[usize::from(ignore)] = Some(IGNORE);
        Self { label_space: label_space.name.clone(), train_ids }
    }

    /// Reads the annotation of `entry` and checks size and values.
    pub(crate) fn read(&self, entry: &SampleEntry) -> Result<Annotation, DatasetError> {
        let path =
            entry.annotation.as_deref().ok_or_else(|| DatasetError::NoAnnotation { image: entry.image.clone() })?;
        let file = segcore::image_io::read_gray8(path)?;
        let expected = image_size(&entry.image)?;
        if file.size != expected {
            return Err(DatasetError::AnnotationSize {
                path: path.to_owned(),
                image: entry.image.clone(),
                expected,
                got: file.size,
            });
        }
        let mut train_ids = file.pixels;
        for (at, value) in train_ids.iter_mut().enumerate() {
            match self.train_ids[usize::from(*value)] {
                Some(train_id) => *value = train_id,
                None => return Err(self.unknown_value(path, *value, at, file.size.width)),
            }
        }
        Ok(Annotation { size: file.size, train_ids })
    }

    fn unknown_value(&self, path: &Path, value: u8, at: usize, width: usize) -> DatasetError {
        let known: Vec<String> = (0..256).filter(|v| self.train_ids[*v].is_some()).map(|v| v.to_string()).collect();
        DatasetError::AnnotationValue {
            path: path.to_owned(),
            value,
            x: at % width,
            y: at / width,
            label_space: self.label_space.clone(),
            expected: known.join(", "),
        }
    }
}

/// Size of an image file, from its header alone.
fn image_size(path: &Path) -> Result<ImageSize, DatasetError> {
    let read_error = |source| DatasetError::Read { path: path.to_owned(), source };
    let reader =
        image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format).map_err(read_error)?;
    let (width, height) = reader
        .into_dimensions()
        .map_err(|error| DatasetError::ImageHeader { path: path.to_owned(), reason: error.to_string() })?;
    Ok(ImageSize { width: width as usize, height: height as usize })
}
