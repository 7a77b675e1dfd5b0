//! `hsg run`: segments sources and writes the output folder.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use indicatif::ProgressBar;
use runtime::PipelineError;
use runtime::pipeline::mask::Mask;
use runtime::pipeline::summary::{RetrievalSummary, Summary};
use runtime::pipeline::unlike::UNLIKE;
use runtime::pipeline::{self, Control, Deployment, PipelineReport, PipelineSpec, Processor, Progress};
use runtime::sink::{
    Broadcast, FanOut, FileSinks, FileSinksSpec, LivePage, LiveSink, OutputFolder, PublishTo, SaveKinds,
    class_table_hash, subfolder_name,
};
use runtime::source::{self, Source, SourceKind, SourceSpec};

use super::{deploy_by, load, with_user_bank, write_json};
use crate::settings::RunSettings;
use runtime::program::printer::Printer;
use runtime::program::progress::LINE_INTERVAL;
use runtime::program::shipped;
use runtime::program::signals::Signals;
use runtime::program::{Outcome, frame_bar};

/// One source with all it needs.
struct Stream {
    /// As typed.
    text: String,
    name: String,
    source: Box<dyn Source>,
    spec: PipelineSpec,
    progress: Arc<Progress>,
    bar: Option<ProgressBar>,
}

impl Stream {
    /// What is written: what the user says; without a word, everything of files and nothing of live sources, which
    /// would fill any disk.
    fn save(&self, settings: &RunSettings) -> SaveKinds {
        let usual = if self.source.info().is_live { SaveKinds::NONE } else { SaveKinds::ALL };
        settings.save.unwrap_or(usual)
    }
}

pub fn run(settings: &RunSettings, printer: Printer) -> anyhow::Result<Outcome> {
    let signals = Signals::listen().context("cannot listen for Ctrl-C")?;
    // First: places that are taken should not wait for cameras and models.
    let mut broadcast = publish(settings, printer, &signals)?;
    let mut page = open_page(settings, printer)?;
    let masks = settings.masks.iter().map(|path| Mask::read(path)).collect::<Result<Vec<_>, _>>()?;
    let mut streams = open_sources(settings, printer)?;
    if let Some(broadcast) = &broadcast
        && streams.iter().all(|stream| !stream.source.info().is_live && stream.spec.realtime_hz.is_none())
    {
        broadcast.wait_for_stdout();
    }
    let num_live = streams.iter().filter(|stream| stream.source.info().is_live).count();
    let model = settings.model.clone().batched(settings.batching(streams.len(), num_live));
    let deployment = if settings.build_beside {
        let load = if settings.model.allow_unverified {
            Deployment::load_building_beside_unverified
        } else {
            Deployment::load_building_beside
        };
        deploy_by(&model, printer, load)?
    } else {
        load(&model, printer)?
    };
    let deployment = with_user_bank(deployment, settings.user_bank, printer)?;
    let mut processors = Vec::new();
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.source.set_input_size(deployment.manifest().preprocessing.input)?;
        let (size, is_sequence) = (stream.source.info().size, stream.source.info().is_sequence);
        let spec = settings.compute.processor(is_sequence, settings.deadline);
        let mut processor = Processor::new(Arc::clone(&deployment), spec)?;
        if processor.is_on_device() {
            stream.source.leave_pixels_as_they_are();
        }
        if let Some(mask) = masks.get(index).or(masks.first()) {
            // Images of a folder may differ in size: each is looked at when its turn comes.
            size.map_or(Ok(()), |size| mask.check_size(size))?;
            processor.set_mask(mask.clone());
        }
        processors.push(processor);
    }
    let shown = show_page(page.as_mut(), &deployment, &streams)?;
    let saves = streams.iter().any(|stream| stream.save(settings).any());
    let folder = match saves {
        true => Some(OutputFolder::create(settings.out.as_deref(), settings.force)?),
        false => None,
    };
    let result = segment(
        settings,
        printer,
        &signals,
        &deployment,
        &mut streams,
        processors,
        folder.as_ref(),
        broadcast.as_mut(),
        shown,
    );
    if let (Err(_), Some(folder)) = (&result, &folder) {
        folder.remove_if_empty();
    }
    result
}

/// Begins to serve the live page, where one is wanted, and says where it is.
fn open_page(settings: &RunSettings, printer: Printer) -> anyhow::Result<Option<LivePage>> {
    let Some(address) = settings.live.clone() else { return Ok(None) };
    let page = LivePage::open(address, settings.live_pictures)?;
    let for_whom =
        if page.is_public() { " (everybody who reaches this machine may look: there is no password)" } else { "" };
    printer.status(format!("live page: {}{for_whom}", page.url()));
    Ok(Some(page))
}

/// Shows the streams on the page; a sink for each, or none at all without a page.
fn show_page(
    page: Option<&mut LivePage>,
    deployment: &Deployment,
    streams: &[Stream],
) -> anyhow::Result<Vec<LiveSink>> {
    let Some(page) = page else { return Ok(Vec::new()) };
    let shown = streams.iter().map(|stream| (stream.name.clone(), Arc::clone(&stream.progress)));
    Ok(page.show(deployment, shown)?)
}

/// Listens where `--publish` says, and says where that is.
fn publish(settings: &RunSettings, printer: Printer, signals: &Signals) -> anyhow::Result<Option<Broadcast>> {
    ensure!(
        !(settings.publish.contains(&PublishTo::Stdout) && std::io::stdout().is_terminal()),
        "--publish stdout: standard output is a terminal, and frames are bytes; pipe them into a program, for example \
         `| python3 docs/wire/hsg_frames.py -`"
    );
    let broadcast = Broadcast::open(&settings.publish, signals.stop_flag())?;
    for place in broadcast.iter().flat_map(Broadcast::places) {
        printer.status(format!("publishing frames: {place}"));
    }
    Ok(broadcast)
}

fn open_sources(settings: &RunSettings, printer: Printer) -> anyhow::Result<Vec<Stream>> {
    let texts = if settings.sources.is_empty() {
        vec![shipped::default_clip()?.display().to_string()]
    } else {
        settings.sources.clone()
    };
    let specs = texts.iter().map(|text| SourceSpec::parse(text)).collect::<Result<Vec<_>, _>>()?;
    // Whoever names them one by one wants them apart.
    let is_apart = settings.names.len() > 1 || settings.masks.len() > 1;
    let specs = if is_apart { specs } else { SourceSpec::join_images(specs) };
    let from_stdin = specs.iter().filter(|spec| matches!(spec.kind, SourceKind::Raw(..))).count();
    ensure!(
        from_stdin <= 1,
        "{from_stdin} sources read standard input, expected one at most; join them in one, or use files"
    );
    let mut streams: Vec<Stream> = Vec::new();
    for (index, (text, spec)) in texts.iter().zip(&specs).enumerate() {
        let source = source::open_spec(spec)?;
        let wanted = settings.names.get(index).cloned().unwrap_or_else(|| source.name().to_owned());
        // Two sources of one name would write into one folder, and so would `front cam` and `front_cam`.
        let is_taken = |name: &str| streams.iter().any(|stream| subfolder_name(&stream.name) == subfolder_name(name));
        let name = (1..)
            .map(|n| if n == 1 { wanted.clone() } else { format!("{wanted}-{n}") })
            .find(|name| !is_taken(name))
            .unwrap_or(wanted);
        let info = source.info().clone();
        let realtime_hz = match (settings.realtime, info.rate_hz) {
            // Live sources have their own clock.
            _ if info.is_live => None,
            (false, _) => None,
            (true, Some(rate)) => Some(rate),
            (true, None) if matches!(spec.kind, SourceKind::Images(_)) => {
                bail!("--realtime: images have no rate of their own; name their folder, for example images/?rate=15")
            }
            (true, None) => {
                bail!("--realtime: the source {text} has no rate of its own; add one, for example {text}?rate=15")
            }
        };
        let total = match (info.frames_promised, settings.frames) {
            (Some(promised), Some(wanted)) => Some(promised.min(wanted)),
            (promised, wanted) => promised.or(wanted),
        };
        streams.push(Stream {
            text: text.clone(),
            spec: PipelineSpec { name: name.clone(), max_frames: settings.frames, realtime_hz },
            bar: frame_bar(printer, &name, total),
            name,
            source,
            progress: Arc::default(),
        });
    }
    Ok(streams)
}

fn segment(
    settings: &RunSettings,
    printer: Printer,
    signals: &Signals,
    deployment: &Arc<Deployment>,
    streams: &mut [Stream],
    processors: Vec<Processor>,
    folder: Option<&OutputFolder>,
    mut broadcast: Option<&mut Broadcast>,
    shown: Vec<LiveSink>,
) -> anyhow::Result<Outcome> {
    let several = streams.len() > 1;
    let budget = runtime::sink::DiskBudget::new(settings.max_disk_bytes);
    let folder_of = |name: &str| folder.map(|out| if several { out.subfolder(name) } else { out.path().to_owned() });
    let mut sinks: Vec<FanOut> = Vec::new();
    let mut shown = shown.into_iter();
    for stream in streams.iter() {
        let mut all = FanOut::new();
        if let Some(folder) = folder_of(&stream.name).filter(|_| stream.save(settings).any()) {
            all.add(FileSinks::create(FileSinksSpec {
                folder,
                save: stream.save(settings),
                rate_hz: stream.source.info().rate_hz,
                label_space: deployment.label_space().clone(),
                has_classes: deployment.has_classes(),
                budget: budget.clone(),
            })?);
        }
        if let Some(sink) = shown.next() {
            all.add(sink);
        }
        if let Some(broadcast) = &broadcast {
            // As in frames.hsg: where nothing has a name no train id means anything.
            let named = deployment.has_classes();
            all.add(broadcast.add_source(if named { class_table_hash(deployment.label_space()) } else { [0; 32] }));
        }
        sinks.push(all);
    }
    let progress: Vec<(String, Arc<Progress>, Option<ProgressBar>)> =
        streams.iter().map(|s| (s.name.clone(), Arc::clone(&s.progress), s.bar.clone())).collect();
    let results: Vec<Result<PipelineReport, PipelineError>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((stream, mut processor), mut sink) in streams.iter_mut().zip(processors).zip(sinks) {
            let control = Control::new(signals.stop_flag());
            let name = stream.name.clone();
            let thread = std::thread::Builder::new().name("hsg-compute".to_owned()).spawn_scoped(scope, move || {
                let Stream { source, spec, progress, .. } = stream;
                pipeline::run(&mut **source, &mut processor, &mut sink, spec, &control, progress)
            });
            threads.push((name, thread));
        }
        watch(printer, &progress, || {
            threads.iter().all(|(_, thread)| thread.as_ref().map_or(true, |handle| handle.is_finished()))
        });
        let finish = |(name, thread): (String, std::io::Result<std::thread::ScopedJoinHandle<'_, _>>)| match thread {
            Err(source) => Err(PipelineError::Spawn { source }),
            Ok(handle) => handle.join().unwrap_or(Err(PipelineError::Thread { name, thread: "hsg-compute" })),
        };
        threads.into_iter().map(finish).collect()
    });
    for (_, _, bar) in &progress {
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
    }
    // Before the figures are told: subscribers still get what waits for them.
    let published = broadcast.as_mut().map_or(Ok(()), |broadcast| broadcast.close());
    let outcome = report(printer, signals, deployment, streams, results, folder_of, settings, broadcast.as_deref());
    outcome.and_then(|outcome| published.map(|()| outcome).map_err(Into::into))
}

/// The videos that a run wrote: one for each size of frames.
fn videos_in(folder: &Path) -> String {
    let is_video = |name: &String| name.starts_with("video") && name.ends_with(".avi");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(is_video).collect();
    // `video.avi` before `video-2.avi` before `video-10.avi`.
    names.sort_by_key(|name| (name.len(), name.clone()));
    let paths: Vec<String> = names.iter().map(|name| folder.join(name).display().to_string()).collect();
    paths.join(", ")
}

/// Shows progress until `finished`.
fn watch(printer: Printer, streams: &[(String, Arc<Progress>, Option<ProgressBar>)], finished: impl Fn() -> bool) {
    let start = Instant::now();
    let mut last_line = start;
    while !finished() {
        std::thread::sleep(Duration::from_millis(20));
        let line_due = printer.plain_progress() && last_line.elapsed() >= LINE_INTERVAL;
        for (name, progress, bar) in streams {
            let frames = progress.frames.load(Ordering::Relaxed);
            if let Some(bar) = bar {
                bar.set_position(frames);
            } else if line_due {
                let rate = frames as f64 / start.elapsed().as_secs_f64();
                printer.status(format!("{name}: {frames} frames, {rate:.1} fps"));
            }
        }
        if line_due {
            last_line = Instant::now();
        }
    }
}

fn report(
    printer: Printer,
    signals: &Signals,
    deployment: &Deployment,
    streams: &[Stream],
    results: Vec<Result<PipelineReport, PipelineError>>,
    folder_of: impl Fn(&str) -> Option<std::path::PathBuf>,
    settings: &RunSettings,
    broadcast: Option<&Broadcast>,
) -> anyhow::Result<Outcome> {
    let mut summaries = BTreeMap::new();
    let mut outcome = Outcome::Done;
    let mut errors = Vec::new();
    // The figures of the other sources are still to be told.
    let mut unwritten = None;
    for (index, (stream, result)) in streams.iter().zip(results).enumerate() {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let name = &stream.name;
        if let Some((promised, had)) = report.cut_short {
            log::warn!(
                "{}: {promised} frames were promised or begun, {had} could be read; what they come from is cut or damaged",
                stream.text
            );
        }
        if let Some(limit) = &report.measured.limit {
            log::warn!("{name}: stopped early: {limit}");
        }
        if !report.complete() {
            outcome = Outcome::Incomplete;
        }
        let mut summary = Summary::new(deployment, &stream.text, &report);
        summary.publish = broadcast.map(|broadcast| broadcast.summary(index)).unwrap_or_default();
        printer.status(format!(
            "{name}: {} frames in {:.1} s ({:.1} fps), {} dropped, {} skipped{}{}{}",
            summary.frames,
            summary.seconds,
            summary.frames_per_second,
            summary.dropped,
            summary.skipped,
            if report.reconnects > 0 { format!(", came back {} times", report.reconnects) } else { String::new() },
            if summary.unsaved > 0 { format!(", {} not saved", summary.unsaved) } else { String::new() },
            if report.interrupted { ", interrupted" } else { "" }
        ));
        let is_unlike = |found: &&RetrievalSummary| found.prototypes > 0 && found.distance_to_bank > f64::from(UNLIKE);
        if let Some(retrieval) = summary.retrieval.as_ref().filter(is_unlike) {
            printer.status(format!(
                "{name}: names will often be wrong, as these frames are unlike the street that the model knows (distance \
                 {:.3} to its bank, at most {UNLIKE} expected); `hsg bank add` names what you point at, `hsg bank build` \
                 makes a bank from labelled frames of yours",
                retrieval.distance_to_bank
            ));
        }
        if let Some(folder) = folder_of(name).filter(|_| stream.save(settings).any()) {
            if let Err(error) = write_json(&folder.join("summary.json"), &summary) {
                unwritten.get_or_insert(error);
            }
            let mut places = Vec::new();
            if stream.save(settings).overlay && summary.frames > 0 {
                places.push(format!("pictures {}", folder.join("overlay").display()));
            }
            if stream.save(settings).video && summary.frames > 0 {
                places.push(format!("video {}", videos_in(&folder)));
            }
            if stream.save(settings).mcap && summary.frames > 0 {
                places.push(format!("recording {}", folder.join("recording.mcap").display()));
            }
            places.push(format!("figures {}", folder.join("summary.json").display()));
            printer.status(format!("look at: {}", places.join(" · ")));
        }
        summaries.insert(name.clone(), summary);
    }
    match (streams.len(), summaries.first_key_value()) {
        (1, Some((_, summary))) => printer.document(summary)?,
        (1, None) => {}
        _ => printer.document(&BTreeMap::from([("sources", &summaries)]))?,
    }
    let mut errors = errors.into_iter();
    if let Some(first) = errors.next() {
        for error in errors {
            log::error!("{error}");
        }
        return Err(first.into());
    }
    if let Some(error) = unwritten {
        return Err(error);
    }
    // Stopping is the usual end of a live source; other work was cut off.
    let all_live = streams.iter().all(|stream| stream.source.info().is_live);
    if let Some(signal) = signals.received().filter(|_| !all_live) {
        return Ok(Outcome::Interrupted(signal));
    }
    Ok(outcome)
}
