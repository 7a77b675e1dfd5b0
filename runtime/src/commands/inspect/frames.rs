//! What is in a stream of published frames, `frames.hsg`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use runtime::program::Outcome;
use runtime::program::printer::{Printer, table};
use runtime::sink::class_table_hash;
use segcore::label_space::LabelSpace;
use serde::Serialize;
use wire::{Deframer, Frame, HEADER_BYTES, LENGTH_BYTES, StageNanos, WireError};

/// Bytes read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What the file holds.
#[derive(Serialize)]
struct Report {
    file: String,
    bytes: u64,
    version: u16,
    /// Frames that can be read.
    frames: u64,
    /// Frames whose bytes are no frame.
    damaged_frames: u64,
    /// Whether the file ends with a whole frame and no frame is damaged.
    whole: bool,
    /// The first thing that is wrong with the file.
    fault: Option<String>,
    frame_bytes: Option<Bytes>,
    streams: Vec<Stream>,
}

/// Bytes of a frame, its length before it not counted.
#[derive(Clone, Copy, Serialize)]
struct Bytes {
    least: u64,
    mean: f64,
    most: u64,
}

/// The frames of one source.
#[derive(Default, Serialize)]
struct Stream {
    name: String,
    frames: u64,
    first_sequence: u64,
    last_sequence: u64,
    /// WIDTHxHEIGHT, and how many frames have it.
    sizes: BTreeMap<String, u64>,
    /// Per level, finest first, segments of a frame on average.
    segments: Vec<f64>,
    first_capture_monotonic_nanos: u64,
    last_capture_monotonic_nanos: u64,
    /// None where the publisher did not know it (files).
    first_capture_utc_nanos: Option<u64>,
    last_capture_utc_nanos: Option<u64>,
    /// Dropped up to the last frame.
    drops: u64,
    /// Frames by the step to which the publisher had degraded its work.
    degradation_steps: BTreeMap<u8, u64>,
    /// Milliseconds of each stage on average.
    stage_millis: BTreeMap<&'static str, f64>,
    /// Name of the built-in label space that the classes are of, if they are of one.
    label_space: Option<String>,
    class_table_hash: Option<String>,
    classes: Vec<Class>,
    #[serde(skip)]
    pixels: u64,
    #[serde(skip)]
    areas: BTreeMap<u8, u64>,
}

/// A class that segments of level 0 have.
#[derive(Serialize)]
struct Class {
    train_id: u8,
    /// Known for the classes of a built-in label space.
    name: Option<String>,
    /// Of all pixels, 0 to 1.
    share: f64,
}

/// Reads the file and prints what is in it.
pub fn run(path: &Path, printer: Printer) -> anyhow::Result<Outcome> {
    let report = read(path)?;
    printer.document(&report)?;
    printer.text(text(&report))?;
    Ok(if report.whole { Outcome::Done } else { Outcome::Incomplete })
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let mut file = File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    let mut report = Report {
        file: path.display().to_string(),
        bytes: 0,
        version: wire::VERSION,
        frames: 0,
        damaged_frames: 0,
        whole: false,
        fault: None,
        frame_bytes: None,
        streams: Vec::new(),
    };
    let mut streams: BTreeMap<String, Stream> = BTreeMap::new();
    let mut deframer = Deframer::new();
    let mut piece = vec![0; PIECE_BYTES];
    let mut sum_bytes = 0;
    loop {
        let header = if deframer.header().is_none() { HEADER_BYTES } else { 0 };
        let before = deframer.pending_bytes();
        match deframer.next_frame() {
            Ok(Some(frame)) => {
                let bytes = (before - deframer.pending_bytes() - header - LENGTH_BYTES) as u64;
                report.frames += 1;
                sum_bytes += bytes;
                let Bytes { least, most, .. } =
                    report.frame_bytes.unwrap_or(Bytes { least: bytes, mean: 0.0, most: 0 });
                let mean = sum_bytes as f64 / report.frames as f64;
                report.frame_bytes = Some(Bytes { least: least.min(bytes), mean, most: most.max(bytes) });
                if !streams.contains_key(&frame.stream) {
                    streams.insert(frame.stream.clone(), Stream::begin(&frame));
                }
                if let Some(stream) = streams.get_mut(&frame.stream) {
                    stream.add(&frame);
                }
            }
            Ok(None) => match file.read(&mut piece) {
                Ok(0) => {
                    let got = deframer.pending_bytes();
                    if got > 0 || deframer.header().is_none() {
                        let place = place(&report);
                        report.fault.get_or_insert(format!(
                            "{place} is cut: expected a whole frame at the end of the file, got {got} bytes of one; the frames \
                             before it are whole"
                        ));
                    }
                    break;
                }
                Ok(count) => {
                    report.bytes += count as u64;
                    deframer.push(&piece[..count]);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", path.display())),
            },
            // Of another version nothing is known.
            Err(error) if deframer.header().is_none() => {
                bail!("{}: {error}; take the hsg that wrote it", path.display())
            }
            Err(error) => {
                let place = place(&report);
                let is_last = matches!(error, WireError::TooLong { .. });
                let rest = if is_last { "; nothing says where a frame behind it would begin" } else { "" };
                report.fault.get_or_insert(format!("{place} is damaged: {error}{rest}"));
                report.damaged_frames += 1;
                if is_last {
                    break;
                }
            }
        }
    }
    report.bytes = std::fs::metadata(path).map_or(report.bytes, |metadata| metadata.len());
    report.whole = report.fault.is_none();
    report.streams = streams.into_values().map(Stream::finish).collect();
    Ok(report)
}

/// The frame that comes next, in words.
fn place(report: &Report) -> String {
    format!("frame {}", report.frames + report.damaged_frames)
}

impl Stream {
    fn begin(frame: &Frame) -> Self {
        let hash = frame.class_table_hash;
        let spaces = [LabelSpace::camvid_11(), LabelSpace::cityscapes_19()];
        Self {
            name: frame.stream.clone(),
            first_sequence: frame.sequence,
            first_capture_monotonic_nanos: frame.capture_monotonic_nanos,
            first_capture_utc_nanos: Some(frame.capture_utc_nanos).filter(|nanos| *nanos > 0),
            label_space: spaces.into_iter().find(|space| class_table_hash(space) == hash).map(|space| space.name),
            class_table_hash: (hash != [0; 32]).then(|| hash.iter().map(|byte| format!("{byte:02x}")).collect()),
            ..Self::default()
        }
    }

    /// Adds a frame; what are averages in the end are sums until then.
    fn add(&mut self, frame: &Frame) {
        self.frames += 1;
        self.last_sequence = frame.sequence;
        self.last_capture_monotonic_nanos = frame.capture_monotonic_nanos;
        self.last_capture_utc_nanos = Some(frame.capture_utc_nanos).filter(|nanos| *nanos > 0);
        self.drops = frame.drops;
        *self.sizes.entry(format!("{}x{}", frame.width, frame.height)).or_default() += 1;
        *self.degradation_steps.entry(frame.degradation_step).or_default() += 1;
        if self.segments.len() < frame.levels.len() {
            self.segments.resize(frame.levels.len(), 0.0);
        }
        for (sum, level) in self.segments.iter_mut().zip(&frame.levels) {
            *sum += level.segments.len() as f64;
        }
        for (stage, nanos) in stages(&frame.stage_nanos) {
            *self.stage_millis.entry(stage).or_default() += nanos as f64 / 1e6;
        }
        self.pixels += u64::from(frame.width) * u64::from(frame.height);
        let finest = frame.levels.first().map_or(&[][..], |level| &level.segments);
        for segment in finest {
            if let Some(train_id) = segment.train_id {
                *self.areas.entry(train_id).or_default() += u64::from(segment.area);
            }
        }
    }

    fn finish(mut self) -> Self {
        let frames = self.frames.max(1) as f64;
        self.segments.iter_mut().for_each(|sum| *sum /= frames);
        self.stage_millis.values_mut().for_each(|sum| *sum /= frames);
        let space = self.label_space.as_deref().and_then(LabelSpace::by_name);
        let pixels = self.pixels.max(1) as f64;
        let class = |(train_id, area): (&u8, &u64)| Class {
            train_id: *train_id,
            name: space.as_ref().and_then(|space| space.class(*train_id)).map(|class| class.name.clone()),
            share: *area as f64 / pixels,
        };
        self.classes = self.areas.iter().map(class).collect();
        self
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let counted = |counts: Vec<(String, u64)>| match counts.as_slice() {
            [(only, _)] => only.clone(),
            _ => counts.iter().map(|(what, count)| format!("{what} ({count} frames)")).collect::<Vec<_>>().join(", "),
        };
        let (first, last) = (self.first_capture_monotonic_nanos, self.last_capture_monotonic_nanos);
        let seconds = last.saturating_sub(first) as f64 / 1e9;
        let mut times = format!("{:.3} to {:.3} s of the publisher's clock", first as f64 / 1e9, last as f64 / 1e9);
        if seconds > 0.0 {
            times.push_str(&format!(", {:.1} frames a second", (self.frames - 1) as f64 / seconds));
        }
        let utc = match (self.first_capture_utc_nanos, self.last_capture_utc_nanos) {
            (Some(first), Some(last)) => {
                format!("{:.3} to {:.3} s after 1970-01-01 UTC", first as f64 / 1e9, last as f64 / 1e9)
            }
            _ => "unknown (a file)".to_owned(),
        };
        let segments: Vec<String> = self.segments.iter().map(|mean| format!("{mean:.1}")).collect();
        let classes = match (&self.label_space, &self.class_table_hash) {
            (Some(space), _) => space.clone(),
            (None, Some(hash)) => format!(
                "of a table with the SHA-256 {hash}, none that is built in (names of your own?); `hsg bank list` has the names"
            ),
            (None, None) => "none: the model names nothing".to_owned(),
        };
        // In the order in which a frame passes them.
        let millis = stages(&StageNanos::default()).map(|(stage, _)| (stage, self.stage_millis.get(stage)));
        let ran =
            millis.into_iter().filter_map(|(stage, millis)| Some((stage, *millis.filter(|millis| **millis > 0.0)?)));
        let stages: Vec<String> = ran.map(|(stage, millis)| format!("{stage} {millis:.2}")).collect();
        vec![
            // The name came with the file: quoted, no control character reaches the terminal.
            ("stream", format!("{:?}", self.name)),
            ("frames", format!("{}, numbers {} to {}", self.frames, self.first_sequence, self.last_sequence)),
            ("size", counted(self.sizes.iter().map(|(size, count)| (size.clone(), *count)).collect())),
            ("captured", times),
            ("time of day", utc),
            ("segments", format!("{} a frame, finest level first", segments.join(", "))),
            ("dropped", self.drops.to_string()),
            (
                "degraded",
                counted(self.degradation_steps.iter().map(|(step, count)| (format!("step {step}"), *count)).collect()),
            ),
            ("stages", format!("{} ms", if stages.is_empty() { "0".to_owned() } else { stages.join(", ") })),
            ("classes", classes),
        ]
    }
}

/// The stages by name, in the order in which a frame passes them.
fn stages(spent: &StageNanos) -> [(&'static str, u64); 9] {
    [
        ("capture", spent.capture),
        ("preprocess", spent.preprocess),
        ("embed", spent.embed),
        ("segment", spent.segment),
        ("group", spent.group),
        ("label", spent.label),
        ("associate", spent.associate),
        ("refine", spent.refine),
        ("publish", spent.publish),
    ]
}

fn text(report: &Report) -> String {
    let mut text = format!("{}: {:.2} MB, {} frames", report.file, report.bytes as f64 / 1e6, report.frames);
    if let Some(Bytes { least, mean, most }) = report.frame_bytes {
        text.push_str(&format!(", {mean:.0} bytes each ({least} to {most})"));
    }
    text.push('\n');
    if report.damaged_frames > 0 {
        text.push_str(&format!("{} damaged frames left out\n", report.damaged_frames));
    }
    if let Some(fault) = &report.fault {
        text.push_str(&format!("not whole: {fault}\n"));
    }
    for stream in &report.streams {
        text.push('\n');
        let rows = stream.rows();
        let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        text.extend(rows.iter().map(|(key, value)| format!("{key:<width$}  {value}\n")));
        let row = |class: &Class| {
            let name = class.name.clone().unwrap_or_else(|| format!("train id {}", class.train_id));
            vec![format!("  {name}"), format!("{:.1} %", 100.0 * class.share)]
        };
        text.push_str(&table(&stream.classes.iter().map(row).collect::<Vec<_>>()));
    }
    text
}
