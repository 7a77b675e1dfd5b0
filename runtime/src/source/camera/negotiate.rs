//! Which of a camera's formats, sizes and rates is taken.

use segcore::image::ImageSize;

use super::super::pixels::PixelLayout;

/// Sizes that are tried where a camera offers a range of them.
const COMMON_SIZES: [(usize, usize); 10] = [
    (320, 180),
    (320, 240),
    (640, 360),
    (640, 480),
    (800, 600),
    (1280, 720),
    (1280, 960),
    (1920, 1080),
    (2560, 1440),
    (3840, 2160),
];
/// Without a wish, modes below this rate are taken only where there is no other, hertz.
const MIN_RATE_HZ: f64 = 15.0;
/// Without a wish, faster than this is not asked for, hertz.
const MAX_RATE_HZ: f64 = 30.0;
/// Rates that differ by less than this share are the same: 29.97 and 30.
const SAME_RATE: f64 = 0.01;

/// Rates of a mode, frames per second.
#[derive(Clone, Debug, PartialEq)]
pub enum Rates {
    /// The driver does not say.
    Unknown,
    /// These.
    List(Vec<f64>),
    /// All from the first to the second.
    Range(f64, f64),
}

/// One format and size of a camera.
#[derive(Clone, Debug, PartialEq)]
pub struct Mode {
    /// Format.
    pub layout: PixelLayout,
    /// Size.
    pub size: ImageSize,
    /// Rates.
    pub rates: Rates,
}

/// What the user asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wish {
    /// `?size=`.
    pub size: Option<ImageSize>,
    /// `?rate=`, hertz.
    pub rate_hz: Option<f64>,
    /// `?format=`.
    pub layout: Option<PixelLayout>,
}

/// What is asked of the driver.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Format.
    pub layout: PixelLayout,
    /// Size.
    pub size: ImageSize,
    /// Rate, hertz; none = the driver's.
    pub rate_hz: Option<f64>,
}

impl Rates {
    /// The rate to ask for; none when the wish cannot be had.
    fn pick(&self, wish: Option<f64>) -> Option<Option<f64>> {
        match (self, wish) {
            (Self::Unknown, wish) => Some(wish),
            (Self::List(list), Some(wish)) => {
                list.iter().copied().find(|rate| (rate - wish).abs() <= SAME_RATE * wish).map(Some)
            }
            (Self::List(list), None) => {
                let below = list.iter().copied().filter(|rate| *rate <= MAX_RATE_HZ * (1.0 + SAME_RATE));
                Some(below.max_by(f64::total_cmp).or_else(|| list.iter().copied().min_by(f64::total_cmp)))
            }
            (Self::Range(low, high), Some(wish)) => {
                let fits = wish >= low * (1.0 - SAME_RATE) && wish <= high * (1.0 + SAME_RATE);
                fits.then_some(Some(wish))
            }
            (Self::Range(low, high), None) => Some(Some(MAX_RATE_HZ.clamp(*low, high.max(*low)))),
        }
    }
}

/// Sizes of a range `min` to `max` in steps of `step` that are worth a look: common ones, the wish, both ends.
pub fn sizes_in_range(min: ImageSize, max: ImageSize, step: ImageSize, wish: Option<ImageSize>) -> Vec<ImageSize> {
    let common = COMMON_SIZES.into_iter().map(|(width, height)| ImageSize::new(width, height));
    let on_step = |value: usize, min: usize, step: usize| (value - min).is_multiple_of(step.max(1));
    let mut sizes: Vec<ImageSize> = common
        .chain(wish)
        .filter(|size| {
            (min.width..=max.width).contains(&size.width) && (min.height..=max.height).contains(&size.height)
        })
        .filter(|size| on_step(size.width, min.width, step.width) && on_step(size.height, min.height, step.height))
        .chain([min, max])
        .collect();
    sizes.sort_by_key(|size| (size.width, size.height));
    sizes.dedup();
    sizes
}

/// The mode that fits best: what was wished for; else the smallest size that is at least `input` (what the network
/// sees), or the largest there is, at 15 Hz or more where there is one; at that size the fastest format up to 30 Hz, and
/// of equally fast ones the cheapest to convert.
///
/// # Errors
/// In words, when there is no such mode: what was asked for and what the camera has.
pub fn choose(modes: &[Mode], wish: &Wish, input: ImageSize) -> Result<Choice, String> {
    let fits = |mode: &&Mode| {
        wish.size.is_none_or(|size| size == mode.size) && wish.layout.is_none_or(|layout| layout == mode.layout)
    };
    let candidates: Vec<Choice> = modes
        .iter()
        .filter(fits)
        .filter_map(|mode| {
            let rate_hz = mode.rates.pick(wish.rate_hz)?;
            Some(Choice { layout: mode.layout, size: mode.size, rate_hz })
        })
        .collect();
    let rank = |choice: &Choice| {
        let rate = choice.rate_hz.unwrap_or(MAX_RATE_HZ).min(MAX_RATE_HZ);
        let too_slow = wish.rate_hz.is_none() && rate < MIN_RATE_HZ * (1.0 - SAME_RATE);
        let too_small = choice.size.width < input.width || choice.size.height < input.height;
        let pixels = choice.size.num_pixels() as i64;
        let place = PixelLayout::ALL.iter().position(|layout| *layout == choice.layout);
        // A grey picture of a colour camera is never what is meant.
        let grey = choice.layout == PixelLayout::Gray8;
        (grey, too_slow, too_small, if too_small { -pixels } else { pixels }, -(rate * 100.0).round() as i64, place)
    };
    candidates.into_iter().min_by_key(rank).ok_or_else(|| {
        let mut asked = Vec::new();
        asked.extend(wish.layout.map(|layout| format!("format {layout}")));
        asked.extend(wish.size.map(|size| format!("size {}x{}", size.width, size.height)));
        asked.extend(wish.rate_hz.map(|rate| format!("rate {rate}")));
        let asked = if asked.is_empty() { "a format that this program reads".to_owned() } else { asked.join(", ") };
        format!("expected {asked}; the camera has {}", describe(modes))
    })
}

/// The modes in words: `MJPG 1280x720 (30, 15), 640x480 (30); YUYV 640x480 (30)`.
pub fn describe(modes: &[Mode]) -> String {
    let mut formats: Vec<String> = Vec::new();
    for layout in PixelLayout::ALL {
        let mut sizes: Vec<String> = Vec::new();
        for mode in modes.iter().filter(|mode| mode.layout == layout) {
            let rates = match &mode.rates {
                Rates::Unknown => String::new(),
                Rates::List(list) => {
                    let words: Vec<String> = list.iter().map(|rate| short(*rate)).collect();
                    format!(" ({})", words.join(", "))
                }
                Rates::Range(low, high) => format!(" ({} to {})", short(*low), short(*high)),
            };
            sizes.push(format!("{}x{}{rates}", mode.size.width, mode.size.height));
        }
        if !sizes.is_empty() {
            formats.push(format!("{layout} {}", sizes.join(", ")));
        }
    }
    if formats.is_empty() { "none that this program reads".to_owned() } else { formats.join("; ") }
}

fn short(rate: f64) -> String {
    let text = format!("{rate:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(layout: PixelLayout, width: usize, height: usize, rates: &[f64]) -> Mode {
        Mode { layout, size: ImageSize::new(width, height), rates: Rates::List(rates.to_vec()) }
    }

    /// What a usual webcam offers.
    fn webcam() -> Vec<Mode> {
        vec![
            mode(PixelLayout::Mjpeg, 640, 480, &[30.0, 15.0]),
            mode(PixelLayout::Mjpeg, 1280, 720, &[30.0]),
            mode(PixelLayout::Mjpeg, 1920, 1080, &[30.0]),
            mode(PixelLayout::Yuyv, 640, 480, &[30.0, 15.0]),
            mode(PixelLayout::Yuyv, 1280, 720, &[10.0]),
            mode(PixelLayout::Gray8, 640, 480, &[60.0]),
        ]
    }

    fn pick(wish: &Wish, input: (usize, usize)) -> Choice {
        choose(&webcam(), wish, ImageSize::new(input.0, input.1)).unwrap()
    }

    #[test]
    fn the_default_covers_the_input_at_a_useful_rate() {
        let choice = pick(&Wish::default(), (480, 360));
        assert_eq!(
            (choice.layout, choice.size, choice.rate_hz),
            (PixelLayout::Yuyv, ImageSize::new(640, 480), Some(30.0))
        );
        // YUYV has 10 Hz only at this size.
        let choice = pick(&Wish::default(), (1024, 512));
        assert_eq!((choice.layout, choice.size), (PixelLayout::Mjpeg, ImageSize::new(1280, 720)));
        // Nothing is large enough: the largest.
        assert_eq!(pick(&Wish::default(), (4000, 3000)).size, ImageSize::new(1920, 1080));
    }

    #[test]
    fn wishes_are_kept_or_refused_with_a_list() {
        let wish = Wish { layout: Some(PixelLayout::Mjpeg), rate_hz: Some(15.0), size: None };
        assert_eq!(pick(&wish, (1280, 720)).size, ImageSize::new(640, 480));
        let wish = Wish { size: Some(ImageSize::new(1280, 720)), layout: Some(PixelLayout::Yuyv), rate_hz: None };
        assert_eq!(pick(&wish, (10, 10)).rate_hz, Some(10.0));
        for wish in [
            Wish { size: Some(ImageSize::new(333, 222)), ..Wish::default() },
            Wish { rate_hz: Some(24.0), ..Wish::default() },
            Wish { layout: Some(PixelLayout::Nv12), ..Wish::default() },
        ] {
            let message = choose(&webcam(), &wish, ImageSize::new(1, 1)).unwrap_err();
            assert!(message.contains("MJPG 640x480 (30, 15), 1280x720 (30)"), "{message}");
        }
        assert!(choose(&[], &Wish::default(), ImageSize::new(1, 1)).unwrap_err().contains("none that"));
    }

    #[test]
    fn ranges_are_looked_at_where_it_matters() {
        let (min, max, step) = (ImageSize::new(48, 32), ImageSize::new(1920, 1080), ImageSize::new(2, 2));
        let sizes = sizes_in_range(min, max, step, Some(ImageSize::new(500, 400)));
        for size in [min, max, ImageSize::new(500, 400), ImageSize::new(640, 480)] {
            assert!(sizes.contains(&size), "{size}");
        }
        assert!(!sizes_in_range(min, max, step, Some(ImageSize::new(501, 400))).contains(&ImageSize::new(501, 400)));
        assert_eq!(Rates::Range(1.0, 60.0).pick(None), Some(Some(30.0)));
        assert_eq!(Rates::Range(1.0, 60.0).pick(Some(61.0)), None);
        assert_eq!(Rates::List(vec![60.0, 50.0]).pick(None), Some(Some(50.0)));
        assert_eq!(Rates::List(vec![29.97]).pick(Some(30.0)), Some(Some(29.97)));
    }
}
