//! `--mask`: parts of the picture that belong to the vehicle (bonnet, mount) or to nobody. They stay out of clustering and
//! carry no label.
//!
//! Cells are larger than pixels: a cell takes part as soon as one of its pixels is not masked, so that exactly the black
//! pixels of the mask are without a label.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use segcore::image::ImageSize;
use segcore::image_io::{ImageFileError, read_rgb};
use segcore::preprocess::ResizePlan;
use segcore::refine::clustered_cells;

use super::StageError;
use crate::sink::NO_SEGMENT;

/// What a PNG file begins with.
const PNG_SIGNATURE: &[u8; 8] = b"\x89PNG\r\n\x1a\n";

/// A mask of one frame size.
#[derive(Clone, Debug)]
pub struct Mask {
    path: PathBuf,
    size: ImageSize,
    /// Whether each pixel takes part, row-major; shared by all streams.
    kept: Arc<[bool]>,
}

/// Why a mask cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// It is no picture.
    #[error("--mask: {0}")]
    Image(#[from] ImageFileError),
    /// A picture whose black is not exactly 0.
    #[error("--mask {path}: expected a PNG file, got a picture of another kind; save it as PNG, where black stays 0", path = path.display())]
    NotPng {
        /// The file.
        path: PathBuf,
    },
    /// Everything is masked.
    #[error("--mask {path}: expected black pixels where nothing is to be segmented and others elsewhere, got black ones only; turn black and white round", path = path.display())]
    AllBlack {
        /// The file.
        path: PathBuf,
    },
    /// It does not fit the frames.
    #[error("--mask {path}: expected the size of the frames, {frame}, got {mask}; draw it on a frame of this source", path = path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Size of the frames.
        frame: ImageSize,
        /// Size of the mask.
        mask: ImageSize,
    },
}

impl Mask {
    /// Reads a PNG file: pixels that are 0 in all channels are masked.
    ///
    /// # Errors
    /// When it cannot be read, is no PNG, or leaves nothing to segment.
    pub fn read(path: &Path) -> Result<Self, MaskError> {
        let image = read_rgb(path)?;
        let mut start = [0; PNG_SIGNATURE.len()];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        if read.is_err() || &start != PNG_SIGNATURE {
            return Err(MaskError::NotPng { path: path.to_owned() });
        }
        let kept: Arc<[bool]> = image.pixels.chunks_exact(3).map(|pixel| pixel != [0, 0, 0]).collect();
        if !kept.contains(&true) {
            return Err(MaskError::AllBlack { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), size: image.size, kept })
    }

    /// Fails unless frames of `size` fit.
    ///
    /// # Errors
    /// [`MaskError::WrongSize`].
    pub fn check_size(&self, size: ImageSize) -> Result<(), MaskError> {
        if size == self.size {
            return Ok(());
        }
        Err(MaskError::WrongSize { path: self.path.clone(), frame: size, mask: self.size })
    }
}

/// A mask in use: what it means for cells, for the size of the feature map at present.
#[derive(Clone, Debug)]
pub struct MaskStage {
    mask: Mask,
    of: Option<(ResizePlan, usize)>,
    cells: Vec<bool>,
}

impl MaskStage {
    /// The stage of one stream.
    pub fn new(mask: Mask) -> Self {
        Self { mask, of: None, cells: Vec::new() }
    }

    /// Which cells take part, `[h, w]` at `stride` (1: at the resolution of the resized frame).
    ///
    /// # Errors
    /// When the frame has another size.
    pub fn cells(&mut self, plan: &ResizePlan, stride: usize) -> Result<&[bool], StageError> {
        if self.of != Some((*plan, stride)) {
            self.mask.check_size(plan.source).map_err(StageError::at("mask"))?;
            clustered_cells(plan, stride, &self.mask.kept, &mut self.cells);
            self.of = Some((*plan, stride));
        }
        Ok(&self.cells)
    }

    /// Takes the label of every masked pixel. `slots` has the size of the mask: [`MaskStage::cells`] was asked before.
    pub fn clear(&self, slots: &mut [u16]) {
        for (slot, kept) in slots.iter_mut().zip(self.mask.kept.iter()) {
            if !kept {
                *slot = NO_SEGMENT;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use segcore::image_io::{write_gray8, write_rgb8};

    use super::*;

    #[test]
    fn black_is_masked_whatever_the_kind_of_png() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let size = ImageSize::new(3, 1);
        write_gray8(&path, size, &[0, 1, 255]).unwrap();
        assert_eq!(*Mask::read(&path).unwrap().kept, [false, true, true]);
        write_rgb8(&path, size, &[0, 0, 0, 0, 0, 9, 255, 255, 255]).unwrap();
        let mask = Mask::read(&path).unwrap();
        assert_eq!(*mask.kept, [false, true, true]);
        let message = mask.check_size(ImageSize::new(1, 3)).unwrap_err().to_string();
        assert!(message.contains("1×3") && message.contains("3×1") && message.contains("m.png"), "{message}");
    }

    #[test]
    fn masks_that_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let message = |path: &Path| Mask::read(path).unwrap_err().to_string();
        assert!(message(&path).contains("m.png"));
        write_gray8(&path, ImageSize::new(2, 1), &[0, 0]).unwrap();
        assert!(message(&path).contains("black ones only"));
        std::fs::write(&path, "text").unwrap();
        assert!(message(&path).contains("m.png"));
        let mut jpeg = Vec::new();
        let encoder = jpeg_encoder::Encoder::new(&mut jpeg, 90);
        encoder.encode(&[255; 8 * 8 * 3], 8, 8, jpeg_encoder::ColorType::Rgb).unwrap();
        std::fs::write(&path, jpeg).unwrap();
        assert!(message(&path).contains("expected a PNG"), "{}", message(&path));
    }
}
