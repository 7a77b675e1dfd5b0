//! Panoptic maps of KITTI-STEP: class and instance of every pixel in one RGB PNG.

use std::path::Path;

use segcore::image::ImageSize;

use crate::annotation::AnnotationValues;
use crate::cityscapes::train_id_values;
use crate::{DatasetError, annotation::IGNORE};

/// A panoptic map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PanopticMap {
    /// Size of the map.
    pub size: ImageSize,
    /// Train id 0–18 of every pixel (the channel R), `[height, width]` row-major; 255 = void.
    pub train_ids: Vec<u8>,
    /// Instance id of every pixel (256 · G + B), `[height, width]` row-major; 0 = none or a crowd. It counts within its
    /// class: two classes may have the same id.
    pub instance_ids: Vec<u16>,
}

/// Reads a panoptic map: 8-bit RGB PNG, R = train id 0–18 or 255, 256 · G + B = instance id.
///
/// # Errors
/// When the file cannot be read, is no 8-bit RGB PNG, or R has another value: the message names file, value and
/// position.
pub fn read_panoptic_png(path: impl AsRef<Path>) -> Result<PanopticMap, DatasetError> {
    read(path.as_ref(), &train_id_values())
}

pub(crate) fn read(path: &Path, values: &AnnotationValues) -> Result<PanopticMap, DatasetError> {
    let file = segcore::image_io::read_rgb8(path)?;
    let (pixels, _) = file.pixels.as_chunks::<3>();
    let mut train_ids: Vec<u8> = pixels.iter().map(|pixel| pixel[0]).collect();
    values.map(path, file.size, &mut train_ids)?;
    // What is no class is no instance either, whatever the file says there.
    let instance_id = |(pixel, train_id): (&[u8; 3], &u8)| match *train_id {
        IGNORE => 0,
        _ => u16::from_be_bytes([pixel[1], pixel[2]]),
    };
    let instance_ids = pixels.iter().zip(&train_ids).map(instance_id).collect();
    Ok(PanopticMap { size: file.size, train_ids, instance_ids })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use segcore::image_io::write_rgb8;

    proptest! {
        #[test]
        fn what_was_written_is_read(
            width in 1usize..9,
            pixels in proptest::collection::vec((0u8..19, any::<u16>()), 8..40),
        ) {
            let size = ImageSize::new(width, pixels.len() / width);
            let pixels = &pixels[..size.num_pixels()];
            let bytes: Vec<u8> = pixels.iter().flat_map(|(id, n)| [*id, n.to_be_bytes()[0], n.to_be_bytes()[1]]).collect();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.png");
            write_rgb8(&path, size, &bytes).unwrap();
            let map = read_panoptic_png(&path).unwrap();
            prop_assert_eq!(map.size, size);
            prop_assert_eq!(map.train_ids, pixels.iter().map(|p| p.0).collect::<Vec<_>>());
            prop_assert_eq!(map.instance_ids, pixels.iter().map(|p| p.1).collect::<Vec<_>>());
        }

        #[test]
        fn other_values_are_refused_with_their_place(value in 19u8..255, at in 0usize..6) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("map.png");
            let mut bytes = [255u8; 18];
            bytes[3 * at] = value;
            write_rgb8(&path, ImageSize::new(3, 2), &bytes).unwrap();
            let message = read_panoptic_png(&path).unwrap_err().to_string();
            let place = format!("map.png: value {value} at column {}, row {}", at % 3, at / 3);
            prop_assert!(message.contains(&place), "{}", message);
        }
    }

    #[test]
    fn grey_maps_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.png");
        segcore::image_io::write_gray8(&path, ImageSize::new(2, 1), &[0, 1]).unwrap();
        let message = read_panoptic_png(&path).unwrap_err().to_string();
        assert!(message.contains("map.png") && message.contains("8-bit RGB"), "{message}");
    }
}
