//! Pictures of the frames where int8 differs most from fp32.

use anyhow::Context as _;
use runtime::sink::{SegmentedFrame, track_color};
use segcore::image::ImageSize;

use super::measure::{classes_of, level_maps};

/// Frames that are shown.
const MOST: usize = 6;
/// Widest picture; larger frames are drawn smaller.
const MAX_WIDTH: usize = 480;
const JPEG_QUALITY: u8 = 80;
/// Share of the colours that are laid over the image, of 256.
const OVERLAY: u16 = 150;
/// Colour of pixels that differ.
const DIFFERENT: [u8; 3] = [255, 0, 80];

/// A frame and how it looks.
pub(super) struct WorstFrame {
    pub(super) name: String,
    /// Share of its pixels that are as in fp32.
    pub(super) agreement: f64,
    /// Caption and JPEG file of each picture.
    pub(super) pictures: Vec<(String, Vec<u8>)>,
}

/// Keeps a frame if it belongs to the worst.
///
/// # Errors
/// What `draw` returns.
pub(super) fn offer(
    worst: &mut Vec<WorstFrame>,
    name: &str,
    agreement: f64,
    draw: impl FnOnce() -> anyhow::Result<Vec<(String, Vec<u8>)>>,
) -> anyhow::Result<()> {
    // Behind those that are as bad: the same frames whatever comes later.
    let place = worst.iter().position(|held| held.agreement > agreement).unwrap_or(worst.len());
    if place < MOST {
        worst.insert(place, WorstFrame { name: name.to_owned(), agreement, pictures: draw()? });
        worst.truncate(MOST);
    }
    Ok(())
}

/// Input, fp32, int8 and where they differ: classes where there are some, else the finest segments.
///
/// # Errors
/// When a picture cannot be encoded.
pub(super) fn draw(
    fp32: &SegmentedFrame,
    int8: &SegmentedFrame,
    palette: Option<&[[u8; 3]; 256]>,
) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let from = fp32.size;
    let to = match from.width {
        0..=MAX_WIDTH => from,
        width => ImageSize::new(MAX_WIDTH, (from.height * MAX_WIDTH).div_ceil(width).max(1)),
    };
    let places: Vec<usize> = (0..to.height)
        .flat_map(|y| {
            let row = (2 * y + 1) * from.height / (2 * to.height) * from.width;
            (0..to.width).map(move |x| row + (2 * x + 1) * from.width / (2 * to.width))
        })
        .collect();
    let (pixels, _) = fp32.frame.pixels.as_chunks::<3>();
    let image: Vec<[u8; 3]> = places.iter().map(|&at| pixels.get(at).copied().unwrap_or_default()).collect();
    let map = |frame: &SegmentedFrame| -> Vec<u16> {
        let full = match palette {
            Some(_) => classes_of(frame),
            None => level_maps(frame).into_iter().next().map(|(labels, _)| labels).unwrap_or_default(),
        };
        places.iter().map(|&at| full.get(at).copied().unwrap_or(u16::MAX)).collect()
    };
    let (a, b) = (map(fp32), map(int8));
    let color = |label: u16| match palette {
        Some(palette) => palette.get(usize::from(label)).copied(),
        None => Some(track_color(u32::from(label))),
    };
    let what = if palette.is_some() { "classes" } else { "finest segments" };
    let overlaid = |color: &dyn Fn(usize) -> Option<[u8; 3]>| -> Vec<[u8; 3]> {
        image.iter().enumerate().map(|(at, pixel)| blend(*pixel, color(at))).collect()
    };
    Ok(vec![
        ("input".to_owned(), encode(to, &image)?),
        (format!("{what}, fp32"), encode(to, &overlaid(&|at| color(a[at])))?),
        (format!("{what}, int8"), encode(to, &overlaid(&|at| color(b[at])))?),
        ("pixels that differ".to_owned(), encode(to, &overlaid(&|at| (a[at] != b[at]).then_some(DIFFERENT)))?),
    ])
}

/// A pixel in grey with a colour laid over it.
fn blend(pixel: [u8; 3], color: Option<[u8; 3]>) -> [u8; 3] {
    let [red, green, blue] = pixel.map(u16::from);
    let gray = (red * 77 + green * 150 + blue * 29) / 256;
    match color {
        None => [gray as u8; 3],
        Some(color) => color.map(|channel| ((u16::from(channel) * OVERLAY + gray * (256 - OVERLAY)) / 256) as u8),
    }
}

fn encode(size: ImageSize, pixels: &[[u8; 3]]) -> anyhow::Result<Vec<u8>> {
    let side = |value: usize| u16::try_from(value).context("a picture of the receipt is too large for JPEG");
    let mut jpeg = Vec::new();
    jpeg_encoder::Encoder::new(&mut jpeg, JPEG_QUALITY)
        .encode(pixels.as_flattened(), side(size.width)?, side(size.height)?, jpeg_encoder::ColorType::Rgb)
        .context("cannot encode a picture of the receipt")?;
    Ok(jpeg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_frames_are_kept_in_order() {
        let mut worst = Vec::new();
        for (index, agreement) in [0.9, 0.5, 0.99, 0.7, 0.5, 1.0, 0.95, 0.2].into_iter().enumerate() {
            offer(&mut worst, &index.to_string(), agreement, || Ok(Vec::new())).unwrap();
        }
        let names: Vec<&str> = worst.iter().map(|frame| frame.name.as_str()).collect();
        assert_eq!(names, ["7", "1", "4", "3", "0", "6"]);
    }
}
