//! Pictures of a frame for the report: input, truth, classes, errors, levels.

use anyhow::Context as _;
use datasets::Annotation;
use runtime::sink::{NO_SEGMENT, SegmentedFrame, track_color};
use segcore::image::ImageSize;
use segcore::label_space::IGNORE;

use super::worst::FramePicture;

/// Widest picture; larger frames are drawn smaller.
const MAX_WIDTH: usize = 640;
const JPEG_QUALITY: u8 = 82;
/// Share of the colours that are laid over the image, of 256.
const OVERLAY: u16 = 150;
/// Colour of wrong pixels.
const WRONG: [u8; 3] = [255, 0, 80];
/// Colour of borders between segments.
const BORDER: [u8; 3] = [255, 255, 255];

/// What the pictures of one frame are drawn from.
pub(super) struct Drawing<'a> {
    pub(super) frame: &'a SegmentedFrame,
    pub(super) truth: &'a Annotation,
    /// Train id of each pixel; none without a bank.
    pub(super) prediction: Option<&'a [u8]>,
    pub(super) palette: &'a [[u8; 3]; 256],
}

impl Drawing<'_> {
    /// All pictures, in the order of the slider.
    ///
    /// # Errors
    /// When a picture cannot be encoded.
    pub(super) fn pictures(&self) -> anyhow::Result<Vec<FramePicture>> {
        let size = self.small();
        let sources: Vec<usize> = source_pixels(self.frame.size, size).collect();
        let image: Vec<[u8; 3]> = {
            let (pixels, _) = self.frame.frame.pixels.as_chunks::<3>();
            sources.iter().map(|&at| pixels.get(at).copied().unwrap_or_default()).collect()
        };
        let mut pictures = vec![encode("input", size, &image)?];
        let class_color = |class: u8| (class != IGNORE).then(|| self.palette[usize::from(class)]);
        let truth: Vec<u8> = sources.iter().map(|&at| self.truth.train_ids[at]).collect();
        pictures.push(encode("truth", size, &overlay(&image, |at| class_color(truth[at])))?);
        if let Some(prediction) = self.prediction {
            let classes: Vec<u8> = sources.iter().map(|&at| prediction[at]).collect();
            pictures.push(encode("classes", size, &overlay(&image, |at| class_color(classes[at])))?);
            let is_wrong = |at: usize| truth[at] != IGNORE && truth[at] != classes[at];
            pictures.push(encode("errors", size, &overlay(&image, |at| is_wrong(at).then_some(WRONG)))?);
        }
        // Per pixel its segment, level by level.
        let mut segments: Vec<u16> = sources.iter().map(|&at| self.frame.slots[at]).collect();
        for (index, level) in self.frame.levels.iter().enumerate() {
            let caption = format!("level {index}: {} segments", level.segments.iter().filter(|s| s.present).count());
            let color = |at: usize| {
                let is_border = |other: Option<&u16>| other.is_some_and(|other| *other != segments[at]);
                let right = if (at + 1).is_multiple_of(size.width) { None } else { segments.get(at + 1) };
                if is_border(right) || is_border(segments.get(at + size.width)) {
                    return Some(BORDER);
                }
                level.segments.get(usize::from(segments[at])).map(|segment| track_color(segment.track_id))
            };
            pictures.push(encode(&caption, size, &overlay(&image, color))?);
            for segment in &mut segments {
                *segment = level.parents.get(usize::from(*segment)).copied().unwrap_or(NO_SEGMENT);
            }
        }
        Ok(pictures)
    }

    /// The size of the pictures.
    fn small(&self) -> ImageSize {
        let size = self.frame.size;
        if size.width <= MAX_WIDTH {
            return size;
        }
        ImageSize { width: MAX_WIDTH, height: (size.height * MAX_WIDTH).div_ceil(size.width).max(1) }
    }
}

/// For each pixel of a smaller picture the pixel of the frame in its middle.
fn source_pixels(from: ImageSize, to: ImageSize) -> impl Iterator<Item = usize> {
    (0..to.height).flat_map(move |y| {
        let row = (2 * y + 1) * from.height / (2 * to.height) * from.width;
        (0..to.width).map(move |x| row + (2 * x + 1) * from.width / (2 * to.width))
    })
}

/// The image with colours laid over it; `None` leaves a pixel grey.
fn overlay(image: &[[u8; 3]], color: impl Fn(usize) -> Option<[u8; 3]>) -> Vec<[u8; 3]> {
    let blend = |(at, pixel): (usize, &[u8; 3])| {
        let [red, green, blue] = pixel.map(u16::from);
        let gray = (red * 77 + green * 150 + blue * 29) / 256;
        match color(at) {
            None => [gray as u8; 3],
            Some(color) => color.map(|channel| ((u16::from(channel) * OVERLAY + gray * (256 - OVERLAY)) / 256) as u8),
        }
    };
    image.iter().enumerate().map(blend).collect()
}

fn encode(caption: &str, size: ImageSize, pixels: &[[u8; 3]]) -> anyhow::Result<FramePicture> {
    let side = |value: usize| u16::try_from(value).context("a picture of the report is too large for JPEG");
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, JPEG_QUALITY)
        .encode(pixels.as_flattened(), side(size.width)?, side(size.height)?, jpeg_encoder::ColorType::Rgb)
        .with_context(|| format!("cannot encode the picture `{caption}`"))?;
    Ok(FramePicture { caption: caption.to_owned(), jpeg })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaller_pictures_take_pixels_from_the_middle() {
        let at: Vec<usize> = source_pixels(ImageSize::new(6, 4), ImageSize::new(3, 2)).collect();
        assert_eq!(at, [7, 9, 11, 19, 21, 23]);
        let same: Vec<usize> = source_pixels(ImageSize::new(3, 2), ImageSize::new(3, 2)).collect();
        assert_eq!(same, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_has_no_colour_is_grey() {
        let drawn = overlay(&[[10, 200, 30], [0, 0, 0]], |at| (at == 1).then_some([255, 0, 0]));
        assert_eq!(drawn, [[123; 3], [149, 0, 0]]);
    }
}
