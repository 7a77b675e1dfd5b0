//! `summary.json`: what a run reports. All commands use these words.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::degrade::LADDER;
use super::publish::StageHistograms;
use super::stats::{Distribution, cpu_name, cpu_seconds, peak_rss_bytes};
use super::{Deployment, PipelineReport};
use crate::sink::PublishSummary;

/// The report of one source.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Name of the model.
    pub model: String,
    /// What ran it.
    pub backend: BackendSummary,
    /// Number format of the networks.
    pub precision: String,
    /// The source, as typed.
    pub source: String,
    /// Frames published.
    pub frames: u64,
    /// Frames dropped because a newer one was there.
    pub dropped: u64,
    /// Inputs that could not be read.
    pub skipped: u64,
    /// Times that a lost source (a camera that was unplugged or stood still) came back.
    pub reconnects: u64,
    /// Frames of a live source that could not be saved (a full disk).
    pub unsaved: u64,
    /// From the first read to the last write, without loading the model.
    pub seconds: f64,
    /// `frames / seconds`.
    pub frames_per_second: f64,
    /// In real time: from "frame complete in memory" to "published", waiting included. Files wait for us, so for them:
    /// reading, plus "computing begins" to "published"; the wait between reading and computing is not counted.
    pub latency_millis: Distribution,
    /// Per stage; stages that did not run have zeros. Where pixels are computed on a GPU, `preprocess` is until all work is
    /// started, `embed` until segments and their transitions are there, and `refine` what is left to wait for pixels. Where
    /// sources run the embedding network together, waiting for the run before is part of `preprocess`.
    pub stages_millis: StagesMillis,
    /// What was computed on a GPU beside the networks.
    pub stages_on: StagesOn,
    /// How frames of several sources went through the embedding network together; null where each source ran it for itself.
    pub batches: Option<BatchSummary>,
    /// Mean absolute difference between the latencies of successive frames.
    pub jitter_millis: f64,
    /// Largest resident set of the process (all sources together).
    pub peak_rss_bytes: u64,
    /// Processor time of the process (all threads and sources, loading included).
    pub cpu_seconds: f64,
    /// What was given up for the deadline, and for how long.
    pub degradation: Vec<DegradationSummary>,
    /// Per level.
    pub levels: Vec<LevelSummary>,
    /// Frames that other programs got, by the places of `--publish`; of several sources this one's.
    pub publish: Vec<PublishSummary>,
    /// Label retrieval; null where nothing has a name: without a bank, and nothing named by hand.
    pub retrieval: Option<RetrievalSummary>,
    /// The machine.
    pub machine: Machine,
}

/// The backend of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSummary {
    /// Its name.
    pub name: String,
    /// What executes the networks, with version.
    pub version: String,
    /// Why it was chosen.
    pub reason: String,
}

/// Where preprocess, embed, segment, group and refine ran.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StagesOn {
    /// Frames for which these ran on a GPU; the others' ran on the CPU, but for what the backend does.
    pub device_frames: u64,
    /// Those of them that were started as CUDA graphs.
    pub graph_frames: u64,
    /// Those of them that were uploaded while the frame before was worked on.
    pub uploaded_ahead_frames: u64,
    /// Those of them that the GPU took in the camera's YUV format; the others' source made RGB or grey of them.
    pub unconverted_frames: u64,
}

/// How many frames the embedding network took at once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchSummary {
    /// Mean over the runs that this source's frames were part of, weighted by those frames.
    pub mean_size: f64,
    /// This source's frames by the number of frames in their run.
    pub frames_by_size: BTreeMap<usize, u64>,
}

impl BatchSummary {
    /// From frames by the number of others in their run; none when there are no such frames.
    fn new(frames_by_others: &[u64]) -> Option<Self> {
        let by_size = (1..).zip(frames_by_others.iter().copied()).filter(|(_, frames)| *frames > 0);
        let frames_by_size: BTreeMap<usize, u64> = by_size.collect();
        let frames: u64 = frames_by_size.values().sum();
        let sum: u64 = frames_by_size.iter().map(|(size, frames)| *size as u64 * frames).sum();
        (frames > 0).then(|| Self { mean_size: sum as f64 / frames as f64, frames_by_size })
    }
}

/// Times of all stages.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StagesMillis {
    /// Reading or decoding.
    pub capture: Distribution,
    /// Resizing and normalising.
    pub preprocess: Distribution,
    /// Embedding network, its output checked and transposed.
    pub embed: Distribution,
    /// Spherical k-means.
    pub segment: Distribution,
    /// Grouping network and its inputs.
    pub group: Distribution,
    /// Hierarchy and retrieval.
    pub label: Distribution,
    /// Ids over time.
    pub associate: Distribution,
    /// Labels to pixels, measures of segments.
    pub refine: Distribution,
    /// Writing.
    pub publish: Distribution,
}

impl StagesMillis {
    /// The stages with their names, in order.
    pub fn named(&self) -> [(&'static str, Distribution); 9] {
        let Self { capture, preprocess, embed, segment, group, label, associate, refine, publish } = *self;
        let values = [capture, preprocess, embed, segment, group, label, associate, refine, publish];
        std::array::from_fn(|i| (StageHistograms::NAMES[i], values[i]))
    }

    /// Sum of the means.
    pub fn total_mean(&self) -> f64 {
        self.named().iter().map(|(_, distribution)| distribution.mean).sum()
    }
}

/// One step of the ladder of `--deadline-millis`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DegradationSummary {
    /// 0 = nothing is given up.
    pub step: usize,
    /// What is.
    pub gives_up: &'static str,
    /// Frames computed at this step.
    pub frames: u64,
    /// Time spent at it.
    pub seconds: f64,
}

/// One level of the hierarchy.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LevelSummary {
    /// 0 = finest.
    pub level: usize,
    /// Mean number of segments with pixels.
    pub segments_mean: f64,
}

/// What label retrieval had to do.
#[derive(Clone, Debug, Serialize)]
pub struct RetrievalSummary {
    /// Prototypes in the bank.
    pub prototypes: usize,
    /// Prototypes laid over it that a person named (`hsg bank add`).
    pub user_prototypes: usize,
    /// Train ids of the names that only they have: the classes after those of the bank.
    pub user_classes: BTreeMap<String, u8>,
    /// Base segments that were named, all frames together.
    pub named: u64,
    /// Those of them that were looked up; the others kept the name of an earlier frame.
    pub looked_up: u64,
    /// Those that were looked up on a GPU.
    pub looked_up_on_device: u64,
    /// Mean over the frames of their distance to the bank: of their pixels, 1 − cosine to the nearest prototype, 0 to 2. Above
    /// [`super::unlike::UNLIKE`] the frames are unlike the street that the model knows, and names are often wrong.
    pub distance_to_bank: f64,
}

/// The machine a run was made on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Processor.
    pub cpu: String,
    /// Accelerator that was used; null without.
    pub gpu: Option<String>,
    /// Threads for arithmetic.
    pub threads: usize,
}

impl Machine {
    /// This machine.
    pub fn of(deployment: &Deployment) -> Self {
        Self { cpu: cpu_name(), gpu: deployment.backend().device.clone(), threads: deployment.spec().num_threads }
    }
}

impl BackendSummary {
    /// The backend of a deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let info = deployment.backend();
        Self { name: info.name.to_owned(), version: info.version.clone(), reason: deployment.reason().to_owned() }
    }
}

impl Summary {
    /// The summary of one source; `source` as the user typed it. [`Summary::publish`] is for the caller to fill.
    pub fn new(deployment: &Deployment, source: &str, report: &PipelineReport) -> Self {
        let measured = &report.measured;
        let frames = measured.frames;
        let [capture, preprocess, embed, segment, group, label, associate, refine, publish] =
            measured.stages.all.each_ref().map(|histogram| histogram.distribution());
        Self {
            model: deployment.manifest().name.clone(),
            backend: BackendSummary::of(deployment),
            precision: deployment.spec().precision.to_string(),
            source: source.to_owned(),
            frames,
            dropped: report.dropped,
            skipped: report.skipped,
            reconnects: report.reconnects,
            unsaved: measured.unsaved,
            seconds: report.seconds,
            frames_per_second: if report.seconds > 0.0 { frames as f64 / report.seconds } else { 0.0 },
            latency_millis: measured.latency.distribution(),
            stages_millis: StagesMillis {
                capture,
                preprocess,
                embed,
                segment,
                group,
                label,
                associate,
                refine,
                publish,
            },
            stages_on: StagesOn {
                device_frames: measured.on_device,
                graph_frames: measured.graphs,
                uploaded_ahead_frames: measured.uploaded_ahead,
                unconverted_frames: measured.as_they_came,
            },
            batches: BatchSummary::new(&measured.batches),
            jitter_millis: measured.jitter_sum_nanos / frames.saturating_sub(1).max(1) as f64 / 1e6,
            peak_rss_bytes: peak_rss_bytes(),
            cpu_seconds: cpu_seconds(),
            degradation: measured
                .degradation
                .iter()
                .zip(&LADDER)
                .enumerate()
                .map(|(step, (&(frames, nanos), ladder))| DegradationSummary {
                    step,
                    gives_up: ladder.gives_up,
                    frames,
                    seconds: nanos as f64 / 1e9,
                })
                .collect(),
            levels: measured
                .segments
                .iter()
                .enumerate()
                .map(|(level, &sum)| LevelSummary { level, segments_mean: sum as f64 / frames.max(1) as f64 })
                .collect(),
            publish: Vec::new(),
            retrieval: deployment.has_classes().then(|| RetrievalSummary {
                prototypes: deployment.bank().map_or(0, |bank| bank.len()),
                user_prototypes: deployment.num_of_user(),
                user_classes: deployment.user_classes(),
                named: measured.named,
                looked_up: measured.looked_up,
                looked_up_on_device: measured.looked_up_on_device,
                distance_to_bank: measured.distance_to_bank / frames.max(1) as f64,
            }),
            machine: Machine::of(deployment),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_counted_by_frames() {
        assert_eq!(BatchSummary::new(&[0; 4]), None);
        let summary = BatchSummary::new(&[2, 0, 6, 0]).unwrap();
        assert_eq!(summary.frames_by_size, BTreeMap::from([(1, 2), (3, 6)]));
        assert_eq!(summary.mean_size, 2.5);
        let text = serde_json::to_value(&summary).unwrap();
        assert_eq!(text["frames_by_size"]["3"], 6);
    }
}
