//! `hsg bank add`, `list`, `rename` and `remove`: names that a person gives by pointing at segments.
//!
//! The frame is segmented by itself, as `hsg run --no-track` does it, so what can be pointed at is what that shows. A
//! segment is named by its mean feature, which is what later frames' segments are compared with (`retrieval::Overlay` has
//! the rule). `add` segments the frame a second time, with the new names, and says what they changed in it: whether they do
//! what was meant is seen there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use models::manifest::ModelFolder;
use retrieval::{Added, Bank, UserBank, UserOrigin, same_name};
use runtime::pipeline::slot::FrameSlot;
use runtime::pipeline::{Deployment, Processor, ProcessorSpec, label_space_with};
use runtime::sink::{NO_SEGMENT, SegmentInfo, SegmentedFrame};
use runtime::source::{self, SourceEvent, SourceKind, SourceSpec};
use segcore::image_io;
use segcore::label_space::LabelSpace;
use serde::Serialize;

use super::load;
use super::user_bank::UserBankFile;
use crate::cli::BankRemoveArgs;
use crate::settings::{BankAddSettings, ModelName};
use runtime::program::Outcome;
use runtime::program::printer::{Printer, table};
use runtime::program::shipped;
use runtime::program::signals::Signals;

/// Colour of the outline in the preview.
const OUTLINE: [u8; 3] = [255, 230, 0];

/// What `hsg bank add` prints with `--json`.
#[derive(Serialize)]
struct AddReport {
    model: String,
    source: String,
    frame: u64,
    name: String,
    /// The class that the name stands for from now on.
    train_id: Option<u8>,
    /// Where names are kept.
    path: String,
    dry_run: bool,
    segments: Vec<AddedSegment>,
    /// Segments of the frame.
    frame_segments: usize,
    changes: Vec<Change>,
    /// Names of a person's own that have another train id from now on.
    moved: Vec<MovedName>,
}

/// A segment that was named.
#[derive(Serialize)]
struct AddedSegment {
    /// Number of its entry; null with `--dry-run`.
    entry: Option<u32>,
    /// `new`, `known` (the same segment had this name already) or `instead` (it had another).
    result: &'static str,
    at: [u32; 2],
    area: u32,
    bounding_box: [u32; 4],
    before: Option<String>,
    before_confidence: f32,
    after: Option<String>,
    after_confidence: f32,
}

/// Segments of the frame whose name changed.
#[derive(Serialize)]
struct Change {
    before: Option<String>,
    after: Option<String>,
    segments: usize,
    /// Share of the frame's pixels, 0 to 1.
    pixels: f64,
}

/// A segment that is to be named.
struct Chosen {
    slot: usize,
    point: [u32; 2],
    prototype: Vec<f32>,
}

pub fn add(settings: &BankAddSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    let mut deployment = load(&settings.model, printer)?;
    let file = UserBankFile::wanted(deployment.folder())?;
    let before = file.read()?;
    deployment.lay_over(&before, file.path())?;
    ensure!(
        settings.level < deployment.level_sizes().len(),
        "--level {}: expected 0 to {}, the levels of the model {}",
        settings.level,
        deployment.level_sizes().len() - 1,
        deployment.manifest().name
    );
    let source = SourceSpec::parse(&settings.source)?;
    if let Some(path) = &settings.preview {
        check_preview(path, &source.kind)?;
    }
    let mut slot = FrameSlot::default();
    if let Some(outcome) = read_frame(settings, &source, &deployment, &signals, &mut slot)? {
        return Ok(outcome);
    }
    // As `hsg run --no-track` does it.
    let mut processor = Processor::new(Arc::new(deployment), ProcessorSpec::default())?;
    processor.process(&mut slot)?;
    let chosen = choose(settings, &processor, &slot.output)?;
    let labels = |processor: &Processor| processor.deployment().label_space().clone();
    let old = (labels(&processor), slot.output.levels[0].segments.clone());
    if let Some(path) = &settings.preview {
        let frame = &slot.output;
        image_io::write_rgb8(path, frame.size, &outlined(frame, &chosen))?;
        printer.status(format!("look at: {}", path.display()));
    }

    // The model's spelling, where it has the class.
    let classes = processor.deployment().label_space().classes.iter();
    let known = classes.map(|class| &class.name).find(|name| same_name(name, &settings.name));
    let name = known.unwrap_or(&settings.name).clone();
    let put = |user: &mut UserBank| -> anyhow::Result<Vec<Added>> {
        let add = |segment: &Chosen| {
            let info = &old.1[segment.slot];
            let origin = UserOrigin {
                source: settings.source.clone(),
                frame: settings.frame,
                point: segment.point,
                area: info.area,
                before: name_of(&old.0, info),
                utc_seconds: now(),
            };
            Ok(user.add(&name, &segment.prototype, origin)?)
        };
        let added = chosen.iter().map(add).collect::<anyhow::Result<_>>()?;
        check_room(user, processor.deployment().folder(), &file)?;
        Ok(added)
    };
    let names_before = names_of(&before);
    let (added, user) = if settings.dry_run {
        let mut user = before;
        (put(&mut user)?, user)
    } else {
        file.change(put)?
    };

    // Again, with the new names.
    let deployment = Arc::clone(processor.deployment());
    drop(processor);
    let mut deployment = Arc::into_inner(deployment).context("somebody else uses the model")?;
    deployment.lay_over(&user, file.path())?;
    let mut processor = Processor::new(Arc::new(deployment), ProcessorSpec::default())?;
    processor.process(&mut slot)?;
    let new = (labels(&processor), slot.output.levels[0].segments.clone());

    let segments = chosen.iter().zip(&added).map(|(chosen, added)| {
        let (before, after) = (&old.1[chosen.slot], &new.1[chosen.slot]);
        let (number, result) = match added {
            Added::New(number) => (*number, "new"),
            Added::Known(number) => (*number, "known"),
            Added::Instead { number, .. } => (*number, "instead"),
        };
        AddedSegment {
            entry: Some(number).filter(|_| !settings.dry_run),
            result,
            at: chosen.point,
            area: before.area,
            bounding_box: before.bounding_box,
            before: name_of(&old.0, before),
            before_confidence: before.confidence,
            after: name_of(&new.0, after),
            after_confidence: after.confidence,
        }
    });
    let report = AddReport {
        model: processor.deployment().manifest().name.clone(),
        source: settings.source.clone(),
        frame: settings.frame,
        train_id: new.0.classes.iter().find(|class| same_name(&class.name, &name)).map(|class| class.train_id.0),
        path: file.path().display().to_string(),
        dry_run: settings.dry_run,
        segments: segments.collect(),
        frame_segments: old.1.iter().filter(|segment| segment.present).count(),
        changes: changes((&old.0, &old.1), (&new.0, &new.1), slot.output.size.num_pixels()),
        moved: moved_names(&names_before, &names_of(&user), &shipped_names(processor.deployment().folder())),
        name,
    };
    warn_of_moved(&report.moved);
    printer.document(&report)?;
    printer.text(add_text(&report))?;
    let overruled = report.segments.iter().filter(|segment| segment.after.as_deref() != Some(report.name.as_str()));
    if let Some(segment) = overruled.clone().next() {
        printer.status(format!(
            "{} of the segments, the first one at {},{}, stay what they were, because segments around them that look alike \
             outvote them: name some of those, too",
            overruled.count(),
            segment.at[0],
            segment.at[1]
        ));
    }
    Ok(Outcome::Done)
}

/// Refuses names that have no train id: with them nothing could be run any more, so they are never kept.
fn check_room(user: &UserBank, folder: &ModelFolder, file: &UserBankFile) -> anyhow::Result<()> {
    label_space_with(user, folder.label_space(), folder.bank_path().is_some(), file.path())?;
    Ok(())
}

/// Refuses a picture that would take the place of a file of the source, or stand between its images.
fn check_preview(path: &Path, source: &SourceKind) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let sources = match source {
        SourceKind::Folder(path)
        | SourceKind::Image(path)
        | SourceKind::Video(path)
        | SourceKind::Recording(path, _) => std::slice::from_ref(path),
        SourceKind::Images(paths) => paths.as_slice(),
        _ => &[],
    };
    let whole = |path: &Path| path.canonicalize().ok();
    let own = [whole(path), whole(folder)];
    let is_source = sources.iter().filter_map(|source| whole(source)).any(|source| own.contains(&Some(source)));
    ensure!(!is_source, "--preview {}: that is the source itself; name another file or folder", path.display());
    Ok(())
}

/// Reads the frame that is pointed at; an outcome when that is interrupted.
fn read_frame(
    settings: &BankAddSettings,
    source: &SourceSpec,
    deployment: &Deployment,
    signals: &Signals,
    slot: &mut FrameSlot,
) -> anyhow::Result<Option<Outcome>> {
    let (text, wanted) = (&settings.source, settings.frame);
    let mut source = source::open_spec(source)?;
    source.set_input_size(deployment.manifest().preprocessing.input)?;
    let frame = &mut slot.output.frame;
    loop {
        if let Some(signal) = signals.received() {
            return Ok(Some(Outcome::Interrupted(signal)));
        }
        match source.next(frame)? {
            SourceEvent::Frame if frame.index == wanted => break,
            SourceEvent::Skipped { index, reason, .. } if index == wanted => {
                bail!("{text}: frame {wanted} cannot be read: {reason}; point at another one")
            }
            SourceEvent::Frame if frame.index > wanted => {
                bail!("{text}: frame {wanted} was lost on the way; point at another one")
            }
            SourceEvent::End { delivered, .. } => bail!(
                "{text}: expected a frame with index {wanted} (--frame), got the end after {delivered} frames, which are counted \
                 from 0"
            ),
            SourceEvent::Lost { reason } => bail!("{text}: {reason}"),
            _ => {}
        }
    }
    slot.output.stream.clear();
    slot.output.stream.push_str(source.name());
    Ok(None)
}

/// The finest segments at, or in the groups at, the points; each once.
fn choose(settings: &BankAddSettings, processor: &Processor, frame: &SegmentedFrame) -> anyhow::Result<Vec<Chosen>> {
    let (map, _) = processor.segments();
    let dim = processor.deployment().manifest().network.embedding_dim;
    // The segment of a slot at the level that is asked for.
    let above = |slot: u16| {
        frame.levels.iter().take(settings.level).try_fold(slot, |segment, level| {
            level.parents.get(usize::from(segment)).copied().filter(|parent| *parent != NO_SEGMENT)
        })
    };
    let mut chosen: Vec<Chosen> = Vec::new();
    for &point in &settings.points {
        let [x, y] = point.map(|value| value as usize);
        ensure!(
            x < frame.size.width && y < frame.size.height,
            "--at {x},{y}: expected a pixel of the frame, which has {} of them",
            frame.size
        );
        let at = frame.slots[y * frame.size.width + x];
        let group = Some(at).filter(|slot| *slot != NO_SEGMENT).and_then(above);
        let group = group.with_context(|| format!("--at {x},{y}: there is no segment; point beside it"))?;
        for (slot, &area) in map.areas.iter().enumerate() {
            let is_in = area > 0
                && frame.levels[0].segments.get(slot).is_some_and(|segment| segment.present)
                && u16::try_from(slot).ok().and_then(above) == Some(group);
            if is_in && chosen.iter().all(|other| other.slot != slot) {
                let prototype = map.prototypes[slot * dim..(slot + 1) * dim].to_vec();
                chosen.push(Chosen { slot, point, prototype });
            }
        }
    }
    Ok(chosen)
}

/// The frame as RGB: the segments outlined, the rest darkened.
fn outlined(frame: &SegmentedFrame, chosen: &[Chosen]) -> Vec<u8> {
    let (width, height) = (frame.size.width, frame.size.height);
    let segment = |x: usize, y: usize| {
        let slot = frame.slots[y * width + x];
        chosen.iter().position(|segment| segment.slot == usize::from(slot))
    };
    let mut pixels = frame.frame.pixels.clone();
    for (index, pixel) in pixels.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (x, y) = (index % width, index / width);
        let here = segment(x, y);
        // Two pixels wide, inside.
        let beside = [(2, 0), (0, 2)]
            .into_iter()
            .flat_map(|(dx, dy)| [(x + dx, y + dy), (x.wrapping_sub(dx), y.wrapping_sub(dy))]);
        let mut beside = beside.filter(|(x, y)| *x < width && *y < height);
        match here {
            None => *pixel = pixel.map(|value| value / 2),
            Some(_) if beside.any(|(x, y)| segment(x, y) != here) => *pixel = OUTLINE,
            Some(_) => {}
        }
    }
    pixels
}

/// How the names of a frame's segments changed, what covers most first.
fn changes(
    (old_space, old): (&LabelSpace, &[SegmentInfo]),
    (new_space, new): (&LabelSpace, &[SegmentInfo]),
    num_pixels: usize,
) -> Vec<Change> {
    let mut found: BTreeMap<(Option<String>, Option<String>), (usize, u64)> = BTreeMap::new();
    for (old, new) in old.iter().zip(new).filter(|(old, _)| old.present) {
        let names = (name_of(old_space, old), name_of(new_space, new));
        if names.0 != names.1 {
            let (segments, pixels) = found.entry(names).or_default();
            *segments += 1;
            *pixels += u64::from(old.area);
        }
    }
    let mut changes: Vec<Change> = found
        .into_iter()
        .map(|((before, after), (segments, pixels))| Change {
            before,
            after,
            segments,
            pixels: pixels as f64 / num_pixels.max(1) as f64,
        })
        .collect();
    changes.sort_by(|a, b| b.pixels.total_cmp(&a.pixels));
    changes
}

fn name_of(space: &LabelSpace, segment: &SegmentInfo) -> Option<String> {
    segment.train_id.and_then(|id| space.class(id)).map(|class| class.name.clone())
}

fn add_text(report: &AddReport) -> String {
    let or_none = |name: &Option<String>| name.clone().unwrap_or_else(|| "nothing".to_owned());
    let mut text = String::new();
    for segment in &report.segments {
        let [x0, y0, x1, y1] = segment.bounding_box;
        let entry = match (segment.entry, segment.result) {
            (None, _) => "would be named".to_owned(),
            (Some(number), "new") => format!("entry {number}"),
            (Some(number), "known") => format!("entry {number} (there already)"),
            (Some(number), _) => format!("entry {number} (another name before)"),
        };
        text.push_str(&format!(
            "{entry}: {} at {},{}: {} pixels within {x0},{y0} to {x1},{y1}, was {} ({:.2}), is {} ({:.2})\n",
            report.name,
            segment.at[0],
            segment.at[1],
            segment.area,
            or_none(&segment.before),
            segment.before_confidence,
            or_none(&segment.after),
            segment.after_confidence
        ));
    }
    let changed: usize = report.changes.iter().map(|change| change.segments).sum();
    let pixels: f64 = report.changes.iter().map(|change| change.pixels).sum();
    text.push_str(&format!(
        "in this frame {changed} of {} segments ({:.1} % of the pixels) {} another name\n",
        report.frame_segments,
        100.0 * pixels,
        if report.dry_run { "would have" } else { "have" }
    ));
    for change in &report.changes {
        text.push_str(&format!(
            "  {} -> {}: {} segments, {:.1} %\n",
            or_none(&change.before),
            or_none(&change.after),
            change.segments,
            100.0 * change.pixels
        ));
    }
    text.push_str(&match report.dry_run {
        true => "nothing was changed (--dry-run)".to_owned(),
        false => format!("kept in {}", report.path),
    });
    text
}

/// What `hsg bank list` prints with `--json`.
#[derive(Serialize)]
struct ListReport {
    model: String,
    model_hash: String,
    /// Where names are kept; null where nothing says where.
    path: Option<String>,
    classes: Vec<ListedClass>,
    entries: Vec<ListedEntry>,
}

/// A name.
#[derive(Serialize)]
struct ListedClass {
    name: String,
    /// What it is in class maps and frames, with the names that there are now.
    train_id: usize,
    shipped: usize,
    user: usize,
}

/// An entry of a person's.
#[derive(Serialize)]
struct ListedEntry {
    entry: u32,
    name: String,
    source: String,
    frame: u64,
    at: [u32; 2],
    area: u32,
    before: Option<String>,
    when: String,
}

pub fn list(model: &ModelName, printer: Printer) -> anyhow::Result<Outcome> {
    let folder = shipped::open_model(&model.0)?;
    let bank = folder.bank_path().map(|path| Bank::open(&path)).transpose()?;
    let file = UserBankFile::of(&folder);
    let user = file.as_ref().map(UserBankFile::read).transpose()?;
    let entries = user.as_ref().map_or(&[][..], UserBank::entries);
    let shipped_names = shipped_names(&folder);
    let own = user.iter().flat_map(UserBank::names).filter(|name| !shipped_names.iter().any(|n| same_name(n, name)));
    let names: Vec<String> = shipped_names.iter().cloned().chain(own.map(str::to_owned)).collect();
    let of_bank = |id: usize| bank.iter().flat_map(Bank::labels).filter(|label| usize::from(**label) == id).count();
    let report = ListReport {
        model: folder.manifest().name.clone(),
        model_hash: folder.model_hash().to_owned(),
        path: file.map(|file| file.path().display().to_string()),
        classes: names
            .iter()
            .enumerate()
            .map(|(train_id, name)| ListedClass {
                name: name.clone(),
                train_id,
                shipped: if train_id < shipped_names.len() { of_bank(train_id) } else { 0 },
                user: entries.iter().filter(|entry| same_name(&entry.name, name)).count(),
            })
            .collect(),
        entries: entries
            .iter()
            .map(|entry| ListedEntry {
                entry: entry.number,
                name: entry.name.clone(),
                source: entry.origin.source.clone(),
                frame: entry.origin.frame,
                at: entry.origin.point,
                area: entry.origin.area,
                before: entry.origin.before.clone(),
                when: utc_text(entry.origin.utc_seconds),
            })
            .collect(),
    };
    printer.document(&report)?;
    let mut rows = vec![["name", "train id", "shipped", "yours"].map(str::to_owned).to_vec()];
    rows.extend(report.classes.iter().map(|class| {
        vec![class.name.clone(), class.train_id.to_string(), class.shipped.to_string(), class.user.to_string()]
    }));
    let mut text = table(&rows);
    if !report.entries.is_empty() {
        text.push('\n');
        for ListedEntry { entry, name, source, frame, at: [x, y], before, when, .. } in &report.entries {
            let before = before.as_deref().unwrap_or("nothing");
            text.push_str(&format!("{entry:>4}  {name}: {source} frame {frame} at {x},{y} (was {before}), {when}\n"));
        }
    }
    match (&report.path, report.entries.len()) {
        (None, _) => text.push_str("nothing says where names of yours would be kept: set HSG_STATE\n"),
        (Some(path), 0) => text.push_str(&format!("none of yours (they would be in {path})\n")),
        (Some(path), count) => text.push_str(&format!("{count} of yours in {path}\n")),
    }
    printer.text(text)?;
    Ok(Outcome::Done)
}

/// The classes that the model's own bank has; none without one.
fn shipped_names(folder: &ModelFolder) -> Vec<String> {
    let classes = folder.bank_path().map(|_| &folder.label_space().classes);
    classes.into_iter().flatten().map(|class| class.name.clone()).collect()
}

/// What `rename` and `remove` print with `--json`.
#[derive(Serialize)]
struct ChangeReport {
    model: String,
    path: String,
    /// Entries that were changed or removed.
    entries: usize,
    /// Entries that there are now.
    left: usize,
    /// Names of a person's own that have another train id now.
    moved: Vec<MovedName>,
}

/// A name whose train id is another than before.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MovedName {
    name: String,
    before: usize,
    now: usize,
}

/// The names that `before` and `after` both have, and that `shipped` has not, with other train ids: those of a person's own
/// follow the bank's in the order of their first entries.
fn moved_names(before: &[String], after: &[String], shipped: &[String]) -> Vec<MovedName> {
    let own = |names: &[String]| -> Vec<String> {
        names.iter().filter(|name| !shipped.iter().any(|shipped| same_name(shipped, name))).cloned().collect()
    };
    let (before, after) = (own(before), own(after));
    let place = |name: &String| before.iter().position(|before| same_name(before, name));
    let moved = |(now, name): (usize, &String)| {
        let before = place(name).filter(|before| *before != now)?;
        Some(MovedName { name: name.clone(), before: shipped.len() + before, now: shipped.len() + now })
    };
    after.iter().enumerate().filter_map(moved).collect()
}

/// Says it, if there is something to say: a program that reads train ids must know.
fn warn_of_moved(moved: &[MovedName]) {
    if !moved.is_empty() {
        let each: Vec<String> =
            moved.iter().map(|MovedName { name, before, now }| format!("{name} {before} -> {now}")).collect();
        log::warn!("train ids have changed: {}; `class_table_hash` of published frames has, too", each.join(", "));
    }
}

fn names_of(user: &UserBank) -> Vec<String> {
    user.names().into_iter().map(str::to_owned).collect()
}

pub fn rename(model: &ModelName, (old, new): (&str, &str), printer: Printer) -> anyhow::Result<Outcome> {
    retrieval::check_name(new).context("NEW")?;
    let folder = shipped::open_model(&model.0)?;
    let file = UserBankFile::wanted(&folder)?;
    let shipped_names = shipped_names(&folder);
    let spelled = shipped_names.iter().find(|name| same_name(name, new)).map_or(new, String::as_str);
    let ((count, before), user) = file.change(|user| {
        let before = names_of(user);
        let count = user.rename(old, spelled)?;
        ensure!(count > 0, "{}", nothing_of_that_name(old, &shipped_names, &folder, "renamed"));
        // What was a class of the model's may be a name of its own now.
        check_room(user, &folder, &file)?;
        Ok((count, before))
    })?;
    let words = format!("{} of `{old}` {} `{spelled}` now", entries(count), if count == 1 { "is" } else { "are" });
    finish(&folder, &file, (count, &before, &user), words, printer)
}

pub fn remove(model: &ModelName, args: &BankRemoveArgs, printer: Printer) -> anyhow::Result<Outcome> {
    let folder = shipped::open_model(&model.0)?;
    let file = UserBankFile::wanted(&folder)?;
    if args.all {
        // Not read: this is the way out when it is damaged.
        let words = match file.remove()? {
            Some(kept) => format!(
                "all names of yours for the model {} are gone (until the next time they are kept in {})",
                folder.manifest().name,
                kept.display()
            ),
            None => format!("there were no names of yours for the model {}", folder.manifest().name),
        };
        let user = UserBank::new(folder.model_hash(), folder.manifest().network.embedding_dim);
        return finish(&folder, &file, (0, &[], &user), words, printer);
    }
    let mut before = Vec::new();
    let (count, user) = file.change(|user| {
        before = names_of(user);
        match (&args.name, args.entry) {
            (Some(name), _) => {
                let count = user.remove(name);
                ensure!(count > 0, "{}", nothing_of_that_name(name, &shipped_names(&folder), &folder, "removed"));
                Ok(count)
            }
            (None, Some(number)) => {
                let numbers: Vec<String> = user.entries().iter().map(|entry| entry.number.to_string()).collect();
                user.remove_entry(number).with_context(|| match numbers.is_empty() {
                    true => {
                        format!(
                            "--entry {number}: there are no names of yours for the model {}",
                            folder.manifest().name
                        )
                    }
                    false => {
                        format!("--entry {number}: expected one of {}; `hsg bank list` has them", numbers.join(", "))
                    }
                })?;
                Ok(1)
            }
            // clap asks for one of them.
            (None, None) => bail!("expected NAME, --entry or --all"),
        }
    })?;
    let words = format!("{} gone", if count == 1 { "1 entry is".to_owned() } else { format!("{count} entries are") });
    finish(&folder, &file, (count, &before, &user), words, printer)
}

fn entries(count: usize) -> String {
    if count == 1 { "1 entry".to_owned() } else { format!("{count} entries") }
}

/// Why a name can be neither renamed nor removed.
fn nothing_of_that_name(name: &str, shipped: &[String], folder: &ModelFolder, done: &str) -> String {
    let model = &folder.manifest().name;
    if shipped.iter().any(|shipped| same_name(shipped, name)) {
        format!(
            "`{name}` is a class of the model {model} itself, which readers of its results know, and is not {done}; give its \
             segments another name with `hsg bank add`"
        )
    } else {
        format!("there is no name `{name}` of yours for the model {model}; `hsg bank list` has those there are")
    }
}

fn finish(
    folder: &ModelFolder,
    file: &UserBankFile,
    (entries, before, user): (usize, &[String], &UserBank),
    words: String,
    printer: Printer,
) -> anyhow::Result<Outcome> {
    let report = ChangeReport {
        model: folder.manifest().name.clone(),
        path: file.path().display().to_string(),
        entries,
        left: user.entries().len(),
        moved: moved_names(before, &names_of(user), &shipped_names(folder)),
    };
    warn_of_moved(&report.moved);
    printer.document(&report)?;
    printer.text(format!("{words}; {} of yours in {}", report.left, report.path))?;
    Ok(Outcome::Done)
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Seconds since 1970 as date and time.
pub fn utc_text(seconds: u64) -> String {
    // Days since 1 March of the year 0, when leap days end the year (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let days = (seconds / 86_400).saturating_add(719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::{MovedName, moved_names, utc_text};

    #[test]
    fn ids_that_move_are_told() {
        let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let moved = |before, after| moved_names(&names(before), &names(after), &names("road sky"));
        assert_eq!(moved("sky van", "sky Van gate"), []);
        // The first entry got a name of its own.
        let van = MovedName { name: "van".to_owned(), before: 2, now: 3 };
        assert_eq!(moved("sky van", "heaven van"), [van]);
        let gate = MovedName { name: "gate".to_owned(), before: 3, now: 2 };
        assert_eq!(moved("van gate", "road gate"), [gate]);
    }

    #[test]
    fn dates_are_right() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(utc_text(seconds), text);
        }
        // Whatever a damaged clock says.
        utc_text(u64::MAX);
    }
}
