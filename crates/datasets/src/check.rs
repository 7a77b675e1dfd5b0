//! What can be told about the files of a split in seconds.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use segcore::image::ImageSize;

use crate::{Dataset, DatasetError, FrameGap, SampleEntry, header};

/// What [`Dataset::check`] looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CheckOptions {
    /// Whether the caller reads annotations.
    pub needs_annotations: bool,
    /// Smallest useful image, such as the crop of training; images with a shorter side are counted. 0×0: any will do.
    pub min_size: ImageSize,
    /// How many annotations are decoded to look at their values; the sizes of all are compared anyway.
    pub num_annotations: usize,
    /// Which annotations these are.
    pub seed: u64,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { needs_annotations: false, min_size: ImageSize::new(0, 0), num_annotations: 24, seed: 0 }
    }
}

/// What [`Dataset::check`] found. [`fmt::Display`] gives it in a few lines.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CheckReport {
    /// Number of images.
    pub num_images: usize,
    /// Number of sequences.
    pub num_sequences: usize,
    /// Sizes and how many images have them, the most frequent first, equally frequent ones by width, then height.
    pub sizes: Vec<(ImageSize, usize)>,
    /// Images below the smallest size asked for.
    pub too_small: Vec<TooSmall>,
    /// Images that cannot be read, in the order of the samples: the header is damaged or the end of the file missing.
    pub unreadable: Vec<UnreadableImage>,
    /// Frame numbers that are missing within sequences.
    pub gaps: Vec<FrameGap>,
    /// Number of annotations whose values were looked at.
    pub num_annotations_read: usize,
}

/// An image below the smallest size asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TooSmall {
    /// The image.
    pub path: PathBuf,
    /// Its size.
    pub size: ImageSize,
}

/// An image that cannot be read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnreadableImage {
    /// The image.
    pub path: PathBuf,
    /// What is wrong, the path included.
    pub reason: String,
}

impl CheckReport {
    /// Whether there is nothing to tell anybody: every image can be read and is large enough, and none is missing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.too_small.is_empty() && self.unreadable.is_empty() && self.gaps.is_empty()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images in {} sequences", self.num_images, self.num_sequences)?;
        for (index, (size, count)) in self.sizes.iter().take(DatasetError::NUM_NAMED).enumerate() {
            write!(f, "{}{size}", if index == 0 { ", " } else { " and " })?;
            if self.sizes.len() > 1 {
                write!(f, " ({count})")?;
            }
        }
        if let Some(more) = self.sizes.len().checked_sub(DatasetError::NUM_NAMED).filter(|more| *more > 0) {
            write!(f, " and {more} other sizes")?;
        }
        if self.num_annotations_read > 0 {
            write!(f, "; the label values of {} are valid", self.num_annotations_read)?;
        }
        if let Some(first) = self.unreadable.first() {
            write!(f, "\n{} images cannot be read, the first: {}", self.unreadable.len(), first.reason)?;
        }
        if let Some(first) = self.too_small.first() {
            let (number, path) = (self.too_small.len(), first.path.display());
            write!(f, "\n{number} images are too small, the first: {path} with {}", first.size)?;
        }
        if let Some(first) = self.gaps.first() {
            let missing: u64 = self.gaps.iter().map(FrameGap::num_missing).sum();
            let FrameGap { sequence, after, before } = first;
            write!(f, "\n{missing} frames are missing, the first in sequence {sequence} between {after} and {before}")?;
        }
        Ok(())
    }
}

pub(crate) fn check<D: Dataset + ?Sized>(
    dataset: &D,
    options: &CheckOptions,
    interrupt: &AtomicBool,
) -> Result<CheckReport, DatasetError> {
    if options.needs_annotations {
        dataset.check_annotations()?;
    }
    let samples = dataset.samples();
    let sizes: Vec<Result<ImageSize, DatasetError>> = samples
        .par_iter()
        .map(|entry| goes_on(interrupt).and_then(|()| size_of(entry, options.needs_annotations)))
        .collect();
    goes_on(interrupt)?;
    let mut report = CheckReport {
        num_images: samples.len(),
        num_sequences: dataset.sequences().len(),
        gaps: dataset.gaps().to_vec(),
        ..CheckReport::default()
    };
    let mut count: HashMap<ImageSize, usize> = HashMap::new();
    for (entry, size) in samples.iter().zip(sizes) {
        match size {
            Ok(size) => {
                *count.entry(size).or_default() += 1;
                if size.width < options.min_size.width || size.height < options.min_size.height {
                    report.too_small.push(TooSmall { path: entry.image.clone(), size });
                }
            }
            Err(error) if is_of_image(&error, &entry.image) => {
                report.unreadable.push(UnreadableImage { path: entry.image.clone(), reason: error.to_string() });
            }
            Err(error) => return Err(error),
        }
    }
    report.sizes = count.into_iter().collect();
    report.sizes.sort_by_key(|(size, count)| (std::cmp::Reverse(*count), size.width, size.height));
    if options.needs_annotations {
        // Where the image is broken there is nothing to compare the annotation with.
        let readable = |entry: &&SampleEntry| !report.unreadable.iter().any(|image| image.path == entry.image);
        let chosen = sample(samples.len(), options.num_annotations, options.seed);
        let chosen: Vec<&SampleEntry> = chosen.into_iter().map(|index| &samples[index]).filter(readable).collect();
        let read: Vec<Result<(), DatasetError>> = chosen
            .par_iter()
            .map(|entry| goes_on(interrupt).and_then(|()| dataset.read_annotation(entry).map(drop)))
            .collect();
        goes_on(interrupt)?;
        report.num_annotations_read = read.len();
        // The first in the order of the samples, whatever the threads did.
        read.into_iter().collect::<Result<(), _>>()?;
    }
    Ok(report)
}

pub(crate) fn goes_on(interrupt: &AtomicBool) -> Result<(), DatasetError> {
    if interrupt.load(Ordering::Relaxed) { Err(DatasetError::Interrupted) } else { Ok(()) }
}

/// Size of the image, which its annotation has to have, too.
fn size_of(entry: &SampleEntry, with_annotation: bool) -> Result<ImageSize, DatasetError> {
    let size = header::read_size_of_whole(&entry.image)?;
    if let (true, Some(path)) = (with_annotation, entry.annotation.as_deref()) {
        let got = header::read_size_of_whole(path)?;
        if got != size {
            let (path, image) = (path.to_owned(), entry.image.clone());
            return Err(DatasetError::AnnotationSize { path, image, expected: size, got });
        }
    }
    Ok(size)
}

fn is_of_image(error: &DatasetError, image: &Path) -> bool {
    match error {
        DatasetError::Read { path, .. } | DatasetError::ImageHeader { path, .. } => path == image,
        _ => false,
    }
}

/// `count` different numbers below `total` (all, if there are not so many), in ascending order.
fn sample(total: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..total).collect();
    let count = count.min(total);
    let mut state = seed;
    for at in 0..count {
        // SplitMix64; the small bias of the remainder does not matter here.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut random = state;
        random = (random ^ (random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        random = (random ^ (random >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        random ^= random >> 31;
        numbers.swap(at, at + (random % (total - at) as u64) as usize);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn samples_are_different_and_seeded(total in 0usize..60, count in 0usize..80, seed: u64) {
            let numbers = sample(total, count, seed);
            prop_assert_eq!(numbers.len(), count.min(total));
            prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(numbers.iter().all(|number| *number < total));
            prop_assert_eq!(&numbers, &sample(total, count, seed));
        }
    }
}
