//! The overlay panel: one picture that shows the input, the classes with their names, and every level of the hierarchy; or
//! one of these alone.

use fast_image_resize as fir;
use rayon::prelude::*;
use segcore::image::{Frame, ImageSize, PixelFormat};
use segcore::label_space::LabelSpace;
use segcore::yuv::rgb_of;

use super::maps::{Ancestors, SlotTable};
use super::palette::track_color;
use super::{NO_SEGMENT, SegmentedFrame, font};

/// Widest and highest that a single picture is drawn, pixels; larger frames are scaled down.
const MAX_PICTURE: usize = 640;
/// Narrowest that a picture is drawn, so that its title can be read; smaller frames are scaled up.
const MIN_PICTURE_WIDTH: usize = 320;
/// Widest panel, pixels, gaps not counted.
const MAX_PANEL_WIDTH: usize = 3 * MAX_PICTURE;
/// Pixels between pictures.
const GAP: usize = 6;
/// What gaps and rounding add to the widest panel, which has four columns.
const MAX_GAPS: usize = 5 * GAP + 8;
/// Share of the segment's colour in a segment's pixels, of 256; the rest is the image.
const COLOR_SHARE: u32 = 150;
/// Share of pixels from which a class gets its name written on it.
const NAMED_SHARE: f64 = 0.01;

const BACKGROUND: [u8; 3] = [24, 26, 30];
const TEXT: [u8; 3] = [235, 235, 235];
const FAINT_TEXT: [u8; 3] = [110, 113, 120];
const BORDER: [u8; 3] = [12, 12, 14];

/// Draws panels; all buffers are reused.
#[derive(Debug)]
pub(super) struct Panel {
    label_space: LabelSpace,
    class_colors: [[u8; 3]; 256],
    style: Style,
    layout: Option<Layout>,
    pixels: Vec<u8>,
    /// The frame as RGB, where it is not.
    rgb: Frame,
    /// The input at picture size, RGB.
    image: Vec<u8>,
    /// Slots at picture size.
    slots: Vec<u16>,
    resizer: fir::Resizer,
    /// Segment of each slot at the level that is drawn; its border is where this changes.
    segments: SlotTable<u16>,
    colors: SlotTable<Option<[u8; 3]>>,
    class_areas: Vec<u64>,
    text: String,
}

/// What a panel has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Style {
    /// Without a bank there is no class picture and no legend.
    has_classes: bool,
    /// One field alone, as large as the panel may be.
    only: Option<Field>,
    /// Widest panel, pixels, gaps not counted.
    max_width: usize,
}

/// What one field of the panel shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Input,
    Classes,
    Legend,
    Level(usize),
}

/// Where everything is, for one frame size and number of levels.
#[derive(Clone, Debug)]
struct Layout {
    source: ImageSize,
    num_levels: usize,
    picture: ImageSize,
    panel: ImageSize,
    text_scale: usize,
    /// Top left of each field's title and what it shows.
    fields: Vec<(usize, usize, Field)>,
    title_height: usize,
}

impl Layout {
    fn new(source: ImageSize, num_levels: usize, style: Style) -> Self {
        let mut shown = vec![Field::Input];
        if style.has_classes {
            shown.extend([Field::Classes, Field::Legend]);
        }
        shown.extend((0..num_levels).map(Field::Level));
        if let Some(only) = style.only {
            shown.retain(|field| *field == only);
        }
        let columns = match shown.len() {
            count @ 0..=3 => count.max(1),
            4 => 2,
            5 | 6 => 3,
            _ => 4,
        };
        let max_side = if style.only.is_some() { style.max_width } else { MAX_PICTURE };
        let picture = picture_size(source, max_side, max_side.min(style.max_width / columns));
        let text_scale = if picture.width >= 400 { 2 } else { 1 };
        let title_height = font::HEIGHT * text_scale + 10;
        let (step_x, step_y) = (picture.width + GAP, title_height + picture.height + GAP);
        let panel = ImageSize {
            width: even(GAP + columns * step_x),
            height: even(GAP + shown.len().div_ceil(columns) * step_y),
        };
        let fields = shown
            .into_iter()
            .enumerate()
            .map(|(i, field)| (GAP + i % columns * step_x, GAP + i / columns * step_y, field))
            .collect();
        Self { source, num_levels, picture, panel, text_scale, fields, title_height }
    }
}

/// Size of one picture: the frame's shape, at most `max_width` wide and `max_height` high, at least
/// [`MIN_PICTURE_WIDTH`] wide unless it would become too high.
fn picture_size(source: ImageSize, max_height: usize, max_width: usize) -> ImageSize {
    let (width, height) = (source.width.max(1) as f64, source.height.max(1) as f64);
    let wanted = width.clamp(MIN_PICTURE_WIDTH.min(max_width) as f64, max_width as f64);
    let scale = (wanted / width).min(max_height as f64 / height);
    ImageSize {
        width: even(((width * scale).round() as usize).max(2)),
        height: even(((height * scale).round() as usize).max(2)),
    }
}

/// Even sizes suit the colour sub-sampling of JPEG and old video players.
fn even(value: usize) -> usize {
    value.next_multiple_of(2)
}

impl Panel {
    /// A drawer for one model. Without a bank (`has_classes` false) there is no class picture and no legend.
    pub fn new(label_space: LabelSpace, has_classes: bool) -> Self {
        Self::with_style(label_space, Style { has_classes, only: None, max_width: MAX_PANEL_WIDTH })
    }

    /// A drawer of panels, or of one field of them, of at most `width` pixels (two are too few for anything).
    pub fn within(label_space: LabelSpace, has_classes: bool, only: Option<Field>, width: usize) -> Self {
        let max_width = width.saturating_sub(MAX_GAPS).max(2);
        Self::with_style(label_space, Style { has_classes, only, max_width })
    }

    fn with_style(label_space: LabelSpace, style: Style) -> Self {
        let class_colors = label_space.palette();
        Self {
            label_space,
            class_colors,
            style,
            layout: None,
            pixels: Vec::new(),
            rgb: Frame::black(ImageSize::new(0, 0), PixelFormat::Rgb8),
            image: Vec::new(),
            slots: Vec::new(),
            resizer: fir::Resizer::new(),
            segments: SlotTable::new(NO_SEGMENT),
            colors: SlotTable::new(None),
            class_areas: Vec::new(),
            text: String::new(),
        }
    }

    /// Draws the panel of a frame: RGB, rows packed, and its size. None for a frame that is empty, whose buffers do
    /// not fit its size, or that does not have the one field that is asked for.
    pub fn draw(&mut self, frame: &SegmentedFrame, ancestors: &Ancestors) -> Option<(&[u8], ImageSize)> {
        let num_pixels = frame.size.num_pixels();
        let num_bytes = frame.frame.format.frame_bytes(frame.size);
        let fits = frame.frame.size == frame.size && frame.frame.pixels.len() == num_bytes;
        if num_pixels == 0 || frame.slots.len() != num_pixels || !fits {
            return None;
        }
        let fits = |layout: &Layout| layout.source == frame.size && layout.num_levels == frame.levels.len();
        let layout = match self.layout.take() {
            Some(layout) if fits(&layout) => layout,
            _ => Layout::new(frame.size, frame.levels.len(), self.style),
        };
        if layout.fields.is_empty() {
            return None;
        }
        self.pixels.resize(layout.panel.num_pixels() * 3, 0);
        self.pixels.as_chunks_mut::<3>().0.fill(BACKGROUND);
        self.shrink(frame, layout.picture)?;
        self.sum_classes(frame);
        for &(x, y, field) in &layout.fields {
            self.write_title(frame, &layout, (x, y), field);
            let corner = (x, y + layout.title_height);
            match field {
                Field::Input => self.draw_input(&layout, corner),
                Field::Classes => self.draw_classes(frame, &layout, corner),
                Field::Legend => self.draw_legend(&layout, corner),
                Field::Level(level) => self.draw_level(frame, ancestors, level, &layout, corner),
            }
        }
        let size = layout.panel;
        self.layout = Some(layout);
        Some((&self.pixels, size))
    }

    /// Image and slots at picture size.
    fn shrink(&mut self, frame: &SegmentedFrame, picture: ImageSize) -> Option<()> {
        self.image.resize(picture.num_pixels() * 3, 0);
        let (source, side) = (frame.size, |value: usize| u32::try_from(value).ok());
        let pixel_type = fir::PixelType::U8x3;
        // Frames that a GPU takes as the camera has them become RGB here, for those who want a picture.
        let rgb = rgb_of(&frame.frame, &mut self.rgb).ok()?;
        let from =
            fir::images::ImageRef::new(side(source.width)?, side(source.height)?, &rgb.pixels, pixel_type).ok()?;
        let mut to =
            fir::images::Image::from_slice_u8(side(picture.width)?, side(picture.height)?, &mut self.image, pixel_type)
                .ok()?;
        let options = fir::ResizeOptions::new().resize_alg(fir::ResizeAlg::Convolution(fir::FilterType::Bilinear));
        self.resizer.resize(&from, &mut to, &options).ok()?;

        self.slots.resize(picture.num_pixels(), NO_SEGMENT);
        self.slots.par_chunks_exact_mut(picture.width).enumerate().for_each(|(y, row)| {
            let source_y = (2 * y + 1) * source.height / (2 * picture.height);
            let from = &frame.slots[source_y * source.width..][..source.width];
            for (x, slot) in row.iter_mut().enumerate() {
                *slot = from[(2 * x + 1) * source.width / (2 * picture.width)];
            }
        });
        Some(())
    }

    /// Pixels of each train id; place 255 counts those without.
    fn sum_classes(&mut self, frame: &SegmentedFrame) {
        self.class_areas.clear();
        self.class_areas.resize(256, 0);
        let mut named = 0;
        for segment in frame.levels.first().map_or(&[][..], |level| &level.segments) {
            if let Some(train_id) = segment.train_id.filter(|id| *id != u8::MAX) {
                self.class_areas[usize::from(train_id)] += u64::from(segment.area);
                named += u64::from(segment.area);
            }
        }
        self.class_areas[255] = (frame.size.num_pixels() as u64).saturating_sub(named);
    }

    fn share_of_class(&self, train_id: u8) -> f64 {
        let total: u64 = self.class_areas.iter().sum();
        self.class_areas[usize::from(train_id)] as f64 / total.max(1) as f64
    }

    fn write_title(&mut self, frame: &SegmentedFrame, layout: &Layout, (x, y): (usize, usize), field: Field) {
        use std::fmt::Write as _;
        self.text.clear();
        let text = &mut self.text;
        // Writing to a string does not fail.
        let _ = match field {
            Field::Input => {
                let seconds = frame.frame.capture_time.monotonic_nanos as f64 / 1e9;
                let name: String = frame.stream.chars().take(20).collect();
                write!(text, "input: {name}, frame {}, {seconds:.2} s", frame.frame.index)
            }
            Field::Classes => write!(text, "class of each level-0 segment"),
            Field::Legend => write!(text, "classes and their share of pixels"),
            Field::Level(level) => {
                let segments = frame.levels[level].segments.iter().filter(|segment| segment.present).count();
                let which = match (level, level + 1 == layout.num_levels) {
                    (0, true) => "",
                    (0, false) => " (finest)",
                    (_, true) => " (coarsest)",
                    _ => "",
                };
                write!(text, "level {level}{which}: {segments} segments")
            }
        };
        let room = layout.picture.width / (font::ADVANCE * layout.text_scale);
        if let Some((cut, _)) = self.text.char_indices().nth(room) {
            self.text.truncate(cut);
        }
        write_text(&mut self.pixels, layout.panel, (x + 1, y + 5), layout.text_scale, TEXT, &self.text);
    }

    fn draw_input(&mut self, layout: &Layout, (x, y): (usize, usize)) {
        let row_bytes = layout.picture.width * 3;
        let rows = self.image.chunks_exact(row_bytes);
        for (out, row) in self.pixels.chunks_exact_mut(layout.panel.width * 3).skip(y).zip(rows) {
            out[x * 3..][..row_bytes].copy_from_slice(row);
        }
    }

    fn draw_level(
        &mut self,
        frame: &SegmentedFrame,
        ancestors: &Ancestors,
        level: usize,
        layout: &Layout,
        corner: (usize, usize),
    ) {
        let segments = &frame.levels[level].segments;
        let indices = ancestors.level(level);
        self.segments.set(indices.iter().copied());
        self.colors.set(
            indices.iter().map(|index| segments.get(usize::from(*index)).map(|segment| track_color(segment.track_id))),
        );
        self.fill(layout, corner);
    }

    fn draw_classes(&mut self, frame: &SegmentedFrame, layout: &Layout, (x, y): (usize, usize)) {
        let segments = frame.levels.first().map_or(&[][..], |level| &level.segments);
        self.segments.set(segments.iter().map(|segment| segment.train_id.map_or(NO_SEGMENT, u16::from)));
        let colors = &self.class_colors;
        self.colors.set(segments.iter().map(|segment| segment.train_id.map(|id| colors[usize::from(id)])));
        self.fill(layout, (x, y));
        // Each class that covers enough has its name on the largest of its segments.
        let picture = layout.picture;
        for class in &self.label_space.classes {
            let train_id = class.train_id.0;
            if self.share_of_class(train_id) < NAMED_SHARE {
                continue;
            }
            let of_class = segments.iter().enumerate().filter(|(_, segment)| segment.train_id == Some(train_id));
            let Some((slot, segment)) = of_class.max_by_key(|(_, segment)| segment.area) else { continue };
            let [mean_x, mean_y] = segment.mean_position;
            let scaled = |mean: f32, from: usize, to: usize| {
                ((mean as f64 + 0.5) * to as f64 / from.max(1) as f64).clamp(0.0, (to - 1) as f64) as usize
            };
            let row = scaled(mean_y, frame.size.height, picture.height);
            let wanted = scaled(mean_x, frame.size.width, picture.width);
            // The mean may lie outside a bent segment; the nearest of its pixels in that row will do.
            let places = self.slots[row * picture.width..][..picture.width].iter().enumerate();
            let own = places.filter(|(_, here)| usize::from(**here) == slot).map(|(place, _)| place);
            let Some(column) = own.min_by_key(|place| place.abs_diff(wanted)) else { continue };
            write_label(&mut self.pixels, layout, (x, y), (column, row), &class.name);
        }
    }

    /// One picture from `segments` and `colors`: colours over the image, thin dark borders.
    fn fill(&mut self, layout: &Layout, (x0, y0): (usize, usize)) {
        let Self { pixels, image, slots, segments, colors, .. } = self;
        let ImageSize { width, height } = layout.picture;
        pixels.par_chunks_exact_mut(layout.panel.width * 3).skip(y0).take(height).enumerate().for_each(|(y, out)| {
            let out = out[x0 * 3..][..width * 3].as_chunks_mut::<3>().0;
            let row = &slots[y * width..][..width];
            let below = if y + 1 < height { &slots[(y + 1) * width..][..width] } else { row };
            let image = image[y * width * 3..][..width * 3].as_chunks::<3>().0;
            for x in 0..width {
                let segment = segments.get(row[x]);
                let right = segments.get(row[(x + 1).min(width - 1)]);
                out[x] = if segment != right || segment != segments.get(below[x]) {
                    BORDER
                } else {
                    match colors.get(row[x]) {
                        Some(color) => blend(image[x], color),
                        // Unlabelled: the image, darkened.
                        None => image[x].map(|value| value / 3),
                    }
                };
            }
        });
    }

    fn draw_legend(&mut self, layout: &Layout, (x, y): (usize, usize)) {
        use std::fmt::Write as _;
        let picture = layout.picture;
        let longest = self.label_space.classes.iter().map(|class| class.name.chars().count()).max().unwrap_or(0);
        // The largest text with which all classes fit, in columns where needed.
        let num_entries = self.label_space.classes.len() + 1;
        let measure = |scale: usize| {
            let row = font::HEIGHT * scale + 3 + scale * 2;
            let column = row + 4 + (longest.max(10) + 7) * font::ADVANCE * scale;
            let rows = (picture.height / row).max(1);
            (row, column, rows, num_entries.div_ceil(rows) * column <= picture.width)
        };
        let scale = if measure(layout.text_scale).3 { layout.text_scale } else { 1 };
        let (row_height, column_width, rows, _) = measure(scale);
        let unlabelled = ("unlabelled".to_owned(), 255, BORDER);
        let classes = self.label_space.classes.iter();
        let entries: Vec<(String, u8, [u8; 3])> =
            classes.map(|class| (class.name.clone(), class.train_id.0, class.color)).chain([unlabelled]).collect();
        for (number, (name, train_id, color)) in entries.into_iter().enumerate() {
            let (left, top) = (x + number / rows * column_width, y + number % rows * row_height);
            if left + column_width > x + picture.width + GAP {
                break;
            }
            let share = self.share_of_class(train_id);
            let side = row_height - 4;
            fill_rectangle(&mut self.pixels, layout.panel, (left, top + 1), (side, side), FAINT_TEXT);
            fill_rectangle(&mut self.pixels, layout.panel, (left + 1, top + 2), (side - 2, side - 2), color);
            self.text.clear();
            // Writing to a string does not fail.
            let _ = write!(self.text, "{name:<width$} {:>5.1}%", share * 100.0, width = longest.max(10));
            let ink = if share > 0.0 { TEXT } else { FAINT_TEXT };
            write_text(&mut self.pixels, layout.panel, (left + side + 6, top + 2), scale, ink, &self.text);
        }
    }
}

fn blend(image: [u8; 3], color: [u8; 3]) -> [u8; 3] {
    std::array::from_fn(|channel| {
        let sum = u32::from(color[channel]) * COLOR_SHARE + u32::from(image[channel]) * (256 - COLOR_SHARE);
        (sum >> 8) as u8
    })
}

/// A class name on dark ground, its middle near `place` in the picture at `corner`, wholly inside the picture.
fn write_label(pixels: &mut [u8], layout: &Layout, corner: (usize, usize), place: (usize, usize), name: &str) {
    let scale = layout.text_scale;
    let width = name.chars().count() * font::ADVANCE * scale + 2 * scale;
    let height = (font::HEIGHT + 4) * scale;
    if width > layout.picture.width || height > layout.picture.height {
        return;
    }
    let left = corner.0 + place.0.saturating_sub(width / 2).min(layout.picture.width - width);
    let top = corner.1 + place.1.saturating_sub(height / 2).min(layout.picture.height - height);
    fill_rectangle(pixels, layout.panel, (left, top), (width, height), BACKGROUND);
    write_text(pixels, layout.panel, (left + 2 * scale, top + 2 * scale), scale, TEXT, name);
}

/// Fills a rectangle; what lies outside the panel is left out.
fn fill_rectangle(
    pixels: &mut [u8],
    panel: ImageSize,
    (left, top): (usize, usize),
    (width, height): (usize, usize),
    color: [u8; 3],
) {
    let (start, end) = (left.min(panel.width), (left + width).min(panel.width));
    for row in pixels.chunks_exact_mut(panel.width * 3).skip(top).take(height) {
        row[start * 3..end * 3].as_chunks_mut::<3>().0.fill(color);
    }
}

/// Writes text; what lies outside the panel is left out.
fn write_text(
    pixels: &mut [u8],
    panel: ImageSize,
    (left, top): (usize, usize),
    scale: usize,
    color: [u8; 3],
    text: &str,
) {
    font::dots(text, |x, y| {
        fill_rectangle(pixels, panel, (left + x * scale, top + y * scale), (scale, scale), color);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use segcore::yuv::{YuvColors, YuvMatrix, frame_to_rgb};

    use crate::sink::tests::small_frame;

    fn draw(frame: &SegmentedFrame, has_classes: bool) -> Option<(Vec<u8>, ImageSize)> {
        let mut ancestors = Ancestors::default();
        ancestors.update(frame);
        let mut panel = Panel::new(LabelSpace::camvid_11(), has_classes);
        let once = panel.draw(frame, &ancestors).map(|(pixels, size)| (pixels.to_vec(), size));
        let again = panel.draw(frame, &ancestors).map(|(pixels, size)| (pixels.to_vec(), size));
        assert!(once == again, "the second panel differs");
        once
    }

    fn style(has_classes: bool) -> Style {
        Panel::new(LabelSpace::camvid_11(), has_classes).style
    }

    #[test]
    fn panels_and_their_fields_keep_within_a_width() {
        for (width, height, num_levels) in [(1280, 720, 3), (96, 64, 3), (1242, 375, 6), (3, 4000, 2), (4000, 3, 2)] {
            for only in [None, Some(Field::Input), Some(Field::Classes), Some(Field::Level(1))] {
                for most in [320, 641, 1280, 1920] {
                    let panel = Panel::within(LabelSpace::camvid_11(), true, only, most);
                    let layout = Layout::new(ImageSize::new(width, height), num_levels, panel.style);
                    assert!(layout.panel.width <= most, "{width}×{height} in {most}: {:?}", layout.panel);
                    assert_eq!(only.is_some(), layout.fields.len() == 1);
                }
            }
        }
        let mut ancestors = Ancestors::default();
        let frame = small_frame();
        ancestors.update(&frame);
        let mut draw =
            |only| Panel::within(LabelSpace::camvid_11(), false, Some(only), 640).draw(&frame, &ancestors).is_some();
        assert_eq!([Field::Level(2), Field::Level(3), Field::Classes].map(&mut draw), [true, false, false]);
    }

    #[test]
    fn panels_stay_of_moderate_size() {
        for (width, height, num_levels) in
            [(1280, 720, 3), (480, 360, 3), (96, 64, 3), (2048, 1024, 5), (1242, 375, 1), (3, 4000, 2), (4000, 3, 2)]
        {
            for has_classes in [false, true] {
                let source = ImageSize::new(width, height);
                let layout = Layout::new(source, num_levels, style(has_classes));
                let ImageSize { width, height } = layout.panel;
                assert!(width <= MAX_PANEL_WIDTH + MAX_GAPS && height <= 2200, "{source}: {width}×{height}");
                assert!(width % 2 == 0 && height % 2 == 0);
                assert_eq!(layout.fields.len(), 1 + num_levels + if has_classes { 2 } else { 0 });
                for (x, y, _) in layout.fields {
                    assert!(x + layout.picture.width <= width);
                    assert!(y + layout.title_height + layout.picture.height <= height);
                }
            }
        }
        let hd = Layout::new(ImageSize::new(1280, 720), 3, style(true));
        assert_eq!((hd.picture, hd.panel), (ImageSize::new(640, 360), ImageSize::new(1944, 786)));
    }

    #[test]
    fn pictures_show_image_and_segments() {
        let frame = small_frame();
        let (pixels, size) = draw(&frame, true).unwrap();
        assert_eq!(pixels.len(), size.num_pixels() * 3);
        let layout = Layout::new(frame.size, 3, style(true));
        let at = |field: Field, x: usize, y: usize| {
            let (left, top, _) = *layout.fields.iter().find(|(_, _, f)| *f == field).unwrap();
            let place = ((top + layout.title_height + y) * size.width + left + x) * 3;
            <[u8; 3]>::try_from(&pixels[place..place + 3]).unwrap()
        };
        // Picture of 320×214 from 6×4: the pixel (5, 3) is unlabelled, the others are coloured.
        assert_eq!(layout.picture, ImageSize::new(320, 214));
        let corner = at(Field::Input, 319, 213);
        assert_eq!(at(Field::Level(0), 319, 213), corner.map(|value| value / 3));
        let inside = at(Field::Input, 20, 20);
        assert_eq!(at(Field::Level(0), 20, 20), blend(inside, track_color(70)));
        assert_eq!(at(Field::Level(2), 20, 20), blend(inside, track_color(2)));
        assert_eq!(at(Field::Classes, 5, 5), blend(at(Field::Input, 5, 5), [128, 128, 128]));
        // Slots 0 and 3 meet in the middle of the first row: a border at level 0, none at level 1.
        assert_eq!(at(Field::Level(0), 159, 20), BORDER);
        assert_ne!(at(Field::Level(1), 159, 20), BORDER);
    }

    #[test]
    fn yuv_frames_are_drawn_as_their_rgb() {
        let colors = YuvColors { matrix: YuvMatrix::Bt709, full_range: false };
        for format in
            [PixelFormat::Gray8, PixelFormat::Yuyv8(colors), PixelFormat::Uyvy8(colors), PixelFormat::Nv12(colors)]
        {
            let mut frame = small_frame();
            frame.frame.reshape(frame.size, format);
            frame.frame.pixels.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 37 % 251) as u8);
            let mut converted = frame.clone();
            frame_to_rgb(&frame.frame, &mut converted.frame).unwrap();
            assert!(draw(&frame, true).unwrap() == draw(&converted, true).unwrap(), "{format}");
            frame.frame.pixels.pop();
            assert!(draw(&frame, true).is_none(), "{format}: cut");
        }
    }

    #[test]
    fn odd_frames_are_drawn_or_refused() {
        assert!(draw(&SegmentedFrame::default(), true).is_none());
        let mut short = small_frame();
        short.slots.pop();
        assert!(draw(&short, false).is_none());
        let mut bare = small_frame();
        bare.levels.clear();
        assert!(draw(&bare, true).is_some());
        let mut long_name = small_frame();
        long_name.stream = "ü".repeat(500);
        assert!(draw(&long_name, false).is_some());
    }
}
