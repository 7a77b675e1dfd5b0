//! The network of a run and one optimiser update. [T4–T7]

use std::path::Path;

use log::warn;
use models::arch::{OutputStride, embedding_net};
use models::params::{ParamSpec, initial_weights};
use tch::{Device, Kind, Tensor};

use crate::base_segments::{KeptCells, NO_REGION, Room};
use crate::checkpoint::{self, State};
use crate::device::{Compute, Form};
use crate::error::{Result, TrainError};
use crate::graph_module::{GraphModule, Mode, ParamStore};
use crate::loader::{Batch, PinnedBatch};
use crate::memory::{Fit, MachineMemory, least_step_bytes};
use crate::objective::{Objective, ObjectiveModule, Views};
use crate::optimiser::Sgd;
use crate::parallel::Ranks;
use crate::profile::{Profiler, Stage};
use crate::room::RoomKeeper;
use crate::schedule::learning_rate;
use crate::settings::TrainSettings;

/// Pixels per feature cell in training.
const STRIDE: OutputStride = OutputStride::Train16;

/// The network of a run with everything a step needs.
pub struct Trainer {
    embedding: GraphModule,
    objective: ObjectiveModule,
    optimiser: Sgd,
    /// Parameters and running statistics.
    pub params: ParamStore,
    specs: Vec<ParamSpec>,
    settings: TrainSettings,
    compute: Compute,
    ranks: Ranks,
    form: Form,
    room: RoomKeeper,
}

/// One step's numbers. Loss terms are weighted, so they add up to `loss`.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Total.
    pub loss: f64,
    /// λ_E L_f(G_e).
    pub edge: f64,
    /// λ_F L_f(G_l).
    pub feature: Vec<f64>,
    /// λ_G L_g of level l.
    pub grouping: Vec<f64>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Base segments in the batch.
    pub num_segments: i64,
}

impl StepReport {
    /// Makes it that of the global batch, the same on all ranks.
    fn over_ranks(&mut self, ranks: &Ranks) -> Result<()> {
        // A rank's segments are a share too: their mean times the ranks is the total.
        let mut segments = self.num_segments as f64 * ranks.size() as f64;
        let terms = self.feature.iter_mut().chain(&mut self.grouping);
        let mut numbers: Vec<&mut f64> =
            [&mut self.loss, &mut self.edge, &mut segments].into_iter().chain(terms).collect();
        let mut values: Vec<f64> = numbers.iter().map(|number| **number).collect();
        ranks.mean(&mut values)?;
        numbers.iter_mut().zip(values).for_each(|(number, value)| **number = value);
        self.num_segments = segments.round() as i64;
        Ok(())
    }
}

impl Trainer {
    /// A network with the seeded initial weights of `settings`.
    ///
    /// # Errors
    /// When the settings are out of range.
    pub fn new(settings: &TrainSettings, compute: Compute) -> Result<Self> {
        Self::over_ranks(settings, compute, &Ranks::alone())
    }

    /// The same, learning together with the other ranks: a step's images are those of all of them.
    ///
    /// # Errors
    /// When the settings are out of range, or the images of a step cannot be shared out evenly.
    pub fn over_ranks(settings: &TrainSettings, compute: Compute, ranks: &Ranks) -> Result<Self> {
        Self::in_form(settings, compute, ranks, Form::of(compute.device))
    }

    /// The same with steps in a given form; both compute the same.
    ///
    /// # Errors
    /// As [`Trainer::over_ranks`].
    pub fn in_form(settings: &TrainSettings, compute: Compute, ranks: &Ranks, form: Form) -> Result<Self> {
        ranks.part(settings.batch.images)?;
        let device = compute.device;
        let specs = settings.network.params()?;
        let weights = initial_weights(&specs, settings.run.seed);
        let params = ParamStore::new(&specs, &weights, "initial weights", device)?;
        let optimiser = &settings.optimiser;
        Ok(Trainer {
            embedding: GraphModule::in_form(&embedding_net::fcn(&settings.network, STRIDE)?, device, form)?
                .in_precision(compute.precision)
                .over_ranks(ranks),
            objective: ObjectiveModule::in_form(&settings.network, settings.objective(), device, form)?
                .over_ranks(ranks),
            optimiser: Sgd::new(optimiser.momentum, optimiser.weight_decay, optimiser.transformer_factor),
            params,
            specs,
            settings: settings.clone(),
            compute,
            ranks: ranks.clone(),
            form,
            room: RoomKeeper::default(),
        })
    }

    /// Takes weights and momentum from a checkpoint.
    ///
    /// # Errors
    /// When it belongs to another architecture; the message names file, tensor and shapes.
    pub fn restore(&mut self, checkpoint: &checkpoint::Checkpoint) -> Result<()> {
        let origin = checkpoint.folder.display().to_string();
        self.params = ParamStore::new(&self.specs, &checkpoint.weights, &origin, self.compute.device)?;
        self.room = checkpoint.state.room.iter().copied().collect();
        self.optimiser.restore(&self.params, &checkpoint.momentum, &origin, self.compute.device)
    }

    /// The optimiser's momentum by parameter name.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn momentum(&self) -> Result<models::weights::Weights> {
        self.optimiser.state()
    }

    /// Room that the last steps needed for their segments; none where it is not guessed.
    pub fn room_needed(&self) -> Vec<Room> {
        self.room.needed()
    }

    /// Feature cells along each side of a view.
    pub fn cells(&self) -> usize {
        cells(&self.settings)
    }

    /// Whether this rank's share of a step fits into memory. Only a CPU's is looked at: libtorch says it when a GPU's runs
    /// out, where Linux ends the program without a word.
    ///
    /// # Errors
    /// [`TrainError::OutOfMemory`] when it never does.
    pub fn check_memory(&self) -> Result<()> {
        let Some(memory) = MachineMemory::of_this_machine().filter(|_| self.compute.device == Device::Cpu) else {
            return Ok(());
        };
        match Fit::of(self.least_step_bytes()?, memory) {
            Fit::Open => {}
            Fit::Tight(text) => warn!("memory may run out, and the system end this program: {text}"),
            Fit::Never(text) => return Err(self.out_of_memory(&text)),
        }
        Ok(())
    }

    /// See [`crate::memory::least_step_bytes`].
    ///
    /// # Errors
    /// When the crop does not fit the network.
    pub fn least_step_bytes(&self) -> Result<u64> {
        let batch = &self.settings.batch;
        let views = self.ranks.part(batch.images)?.len() * batch.views;
        let graph = embedding_net::fcn(&self.settings.network, STRIDE)?;
        least_step_bytes(&graph, &[views, 3, batch.crop, batch.crop])
    }

    /// The error of a step that does not fit, with what to change.
    pub fn out_of_memory(&self, message: &str) -> TrainError {
        let batch = &self.settings.batch;
        TrainError::OutOfMemory {
            images: batch.images,
            views: batch.views,
            crop: batch.crop,
            device: self.compute.device_name(),
            message: message.lines().next().unwrap_or_default().to_owned(),
        }
    }

    /// Embeddings of a batch's views, `[V, m, cells, cells]`, with gradient.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.embedding.run(&self.params, &[(embedding_net::IMAGE, images)], mode)?.take(embedding_net::EMBEDDING)
    }

    /// The pixels of a batch as `[V, 3, crop, crop]`, channels innermost in memory.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn images(&self, batch: &Batch) -> Result<Tensor> {
        let crop = self.settings.batch.crop as i64;
        let Compute { device, .. } = self.compute;
        let pixels = match &batch.pinned {
            // Nothing waits for the copy here: what reads it on the GPU comes after it.
            Some(PinnedBatch { pixels, .. }) => pixels.f_to_device_(device, pixels.f_kind()?, true, false)?,
            None => Tensor::f_from_slice(&batch.pixels)?.f_to_device(device)?,
        };
        Ok(pixels.f_reshape([-1, crop, crop, 3])?.f_permute([0, 3, 1, 2])?)
    }

    /// Edge region and kept cells of a batch on the device.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn cells_of(&self, batch: &Batch) -> Result<BatchCells> {
        let (device, cells) = (self.compute.device, self.cells());
        let there = |x: &Tensor| -> Result<Tensor> { Ok(x.f_to_device_(device, x.f_kind()?, true, false)?) };
        let (edges, kept_cells) = match &batch.pinned {
            Some(PinnedBatch { edges, kept, .. }) => {
                (there(edges)?, KeptCells { index: there(&kept.index)?, most_of_image: kept.most_of_image })
            }
            None => {
                let kept = KeptCells::of_edges(&batch.edges, cells * cells, self.settings.batch.views)?;
                let index = kept.index.f_to_device(device)?;
                (Tensor::f_from_slice(&batch.edges)?.f_to_device(device)?, KeptCells { index, ..kept })
            }
        };
        if kept_cells.index.numel() == 0 {
            return Err(TrainError::Invalid {
                what: format!("the batch of step {}", batch.step + 1),
                expected: "views with a cell inside an edge segment".into(),
                got: "none".into(),
                remedy: "the maps of edge segments say \"none\" everywhere: make them again with `hsg-train edges`"
                    .into(),
            });
        }
        let edges = edges.f_reshape([-1, cells as i64, cells as i64])?;
        let kept = edges.f_ne(NO_REGION)?;
        let (images, views) = (batch.samples.len() as i64, self.settings.batch.views as i64);
        let options = (Kind::Int64, device);
        let image_of_view = Tensor::f_arange(images * views, options)?.f_divide_scalar_mode(views, "floor")?;
        Ok(BatchCells { edges, kept, kept_cells, image_of_view, num_images: images })
    }

    /// The objective of a batch's embeddings, with `room` for segments ([`Views::room`]).
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn objective(
        &self,
        embeddings: &Tensor,
        cells: &BatchCells,
        room: Option<Room>,
        mode: Mode,
        profiler: &mut Profiler<'_>,
    ) -> Result<Objective> {
        let views = Views {
            edge_segments: &cells.edges,
            kept: &cells.kept,
            kept_cells: Some(&cells.kept_cells),
            room,
            image_of_view: &cells.image_of_view,
            num_images: cells.num_images,
        };
        self.objective.run(&self.params, embeddings, &views, mode, profiler)
    }

    /// One optimiser update.
    ///
    /// On one GPU, from the second step on, nothing is read back before everything of the step has been asked for. Tensors of segments then have as
    /// much room as the steps before suggest; where that turns out too small, nothing has been updated, and the step is
    /// made again with more.
    ///
    /// # Errors
    /// [`TrainError::Diverged`] when the loss is not finite (nothing is updated then); [`TrainError::Torch`].
    pub fn step(&mut self, batch: &Batch, profiler: &mut Profiler<'_>) -> Result<StepReport> {
        let may_guess = self.form == Form::Device && self.ranks.is_alone();
        let mut room = if may_guess { self.room.guess() } else { None };
        loop {
            // Running statistics move in the forward pass already.
            let statistics = room.map(|_| self.params.statistics().copy());
            let (report, used) = self.attempt(batch, room, profiler)?;
            if may_guess {
                self.room.note(used);
            }
            let is_enough = room.is_none_or(|room| used.segments <= room.segments && used.tokens <= room.tokens);
            match statistics {
                Some(before) if !is_enough => {
                    self.params.statistics().shallow_clone().f_copy_(&before)?;
                    // What was needed is known now, whatever the loss was.
                    room = self.room.guess();
                }
                _ if report.loss.is_finite() => return Ok(report),
                _ => return Err(TrainError::Diverged { step: batch.step + 1, loss: report.loss, saved: None }),
            }
        }
    }

    /// One update, which leaves the parameters as they are if the loss is not finite or `room` too small; and the room
    /// that was needed.
    fn attempt(
        &mut self,
        batch: &Batch,
        room: Option<Room>,
        profiler: &mut Profiler<'_>,
    ) -> Result<(StepReport, Room)> {
        // Dropout is the only random draw inside libtorch; like all streams it depends on seed and step alone, and on the
        // sizes of what it is drawn for, which with a guessed room are those of the guess. Ranks draw different masks.
        let draw = (batch.step as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
            ^ (self.ranks.rank() as u64).wrapping_mul(0xD1B5_4A32_D192_ED03);
        tch::manual_seed((self.settings.run.seed ^ draw) as i64);
        let mode = Mode::Train { dropout: true };
        let (images, cells) = (self.images(batch)?, self.cells_of(batch)?);
        let embeddings = self.forward(&images, mode)?;
        profiler.mark(Stage::Forward);
        let objective = self.objective(&embeddings, &cells, room, mode, profiler)?;
        // Gradients are handed over instead of being added up in the parameters, which would have to be cleared.
        let learned: Vec<&Tensor> = self.params.learned().map(|(_, param)| param).collect();
        let gradients = Tensor::f_run_backward(&[&objective.total], &learned, false, false)?;
        let gradients = self.ranks.average(&learned, gradients)?;
        let optimiser = &self.settings.optimiser;
        let rate = learning_rate(
            optimiser.decay,
            optimiser.learning_rate,
            batch.step,
            self.settings.run.steps,
            optimiser.warm_up_steps,
        );
        // With a guessed room the device decides itself whether the update holds; otherwise the loss is read first.
        let guessed = room.zip(objective.used.as_ref());
        if let Some((room, used)) = guessed {
            let total = objective.total.f_detach()?;
            let fits = |place, most: i64| used.f_select(0, place)?.f_le(most);
            let is_enough = fits(0, room.segments)?.f_logical_and(&fits(1, room.tokens)?)?;
            let holds = total.f_isfinite()?.f_logical_and(&is_enough)?;
            profiler.mark(Stage::Backward);
            self.optimiser.step_where(&holds, &self.params, &gradients, rate)?;
        }
        let (mut report, used) = self.read(&objective, rate)?;
        report.over_ranks(&self.ranks)?;
        if guessed.is_none() {
            profiler.mark(Stage::Backward);
            if report.loss.is_finite() {
                self.optimiser.step(&self.params, &gradients, rate)?;
            }
        }
        profiler.mark(Stage::Optimiser);
        Ok((report, used))
    }

    /// The numbers of a step, in one go: on a GPU this waits for everything that was asked for so far.
    fn read(&self, objective: &Objective, learning_rate: f64) -> Result<(StepReport, Room)> {
        let terms =
            [&objective.total, &objective.edge].into_iter().chain(&objective.feature).chain(&objective.grouping);
        let terms = terms.map(|term| term.f_detach()?.f_to_kind(Kind::Double)?.f_reshape([1]));
        let mut parts = terms.collect::<std::result::Result<Vec<_>, _>>()?;
        if let Some(used) = &objective.used {
            parts.push(used.f_to_kind(Kind::Double)?);
        }
        let numbers = Vec::<f64>::try_from(Tensor::f_cat(&parts, 0)?)?;
        let (loss, edge) = (numbers[0], numbers[1]);
        let (feature, rest) = numbers[2..].split_at(objective.feature.len());
        let (grouping, used) = rest.split_at(objective.grouping.len());
        let used = match used {
            [segments, tokens] => Room { segments: *segments as i64, tokens: *tokens as i64 },
            _ => Room { segments: objective.base.num_segments, tokens: objective.valid.size()[1] },
        };
        let (feature, grouping, num_segments) = (feature.to_vec(), grouping.to_vec(), used.segments);
        Ok((StepReport { loss, edge, feature, grouping, learning_rate, num_segments }, used))
    }

    /// Writes a checkpoint into `run`.
    ///
    /// # Errors
    /// As [`checkpoint::write`].
    pub fn save(&self, run: &Path, state: &State, is_best: bool) -> Result<()> {
        let (weights, momentum) = (self.params.to_weights()?, self.optimiser.state()?);
        checkpoint::write(run, &weights, &momentum, state, &self.settings, is_best)
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// The processes that it learns together with.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// Where it computes.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The backbone and its head alone: forwards, and backwards from a given gradient; what a step cannot do without.
    ///
    /// # Errors
    /// [`TrainError::Torch`].
    pub fn backbone_alone(&self, batch: &Batch) -> Result<()> {
        let images = self.images(batch)?;
        let embeddings = self.forward(&images, Mode::Train { dropout: true })?;
        let gradient = embeddings.f_sign()?.f_detach()?;
        let carrier = (&embeddings * gradient).f_sum(Kind::Float)?;
        let own = |name: &str| name.starts_with("resnet_backbone.") || name.starts_with("conv_out.");
        let learned: Vec<&Tensor> = self.params.learned().filter(|(n, _)| own(n)).map(|(_, param)| param).collect();
        Tensor::f_run_backward(&[&carrier], &learned, false, false)?;
        self.compute.synchronize();
        Ok(())
    }
}

/// What a step needs to know of the cells of a batch, on the device.
pub struct BatchCells {
    /// Edge region of every cell, `[V, cells, cells]` int64.
    edges: Tensor,
    /// Cells that take part, the same shape, bool.
    kept: Tensor,
    kept_cells: KeptCells,
    /// `[V]` int64.
    image_of_view: Tensor,
    num_images: i64,
}

/// Feature cells along each side of a view, rounded up as the network does.
pub fn cells(settings: &TrainSettings) -> usize {
    settings.batch.crop.div_ceil(STRIDE.pixels())
}
