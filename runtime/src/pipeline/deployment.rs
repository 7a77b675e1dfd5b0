//! A model, ready to run: checked folder, backend, loaded networks, prototype bank. Shared by all sources.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use models::manifest::{Manifest, ModelFolder, Precision};
use retrieval::{Bank, Overlay, UserBank, same_name};
use segcore::hierarchy::{ClassId, TrainId};
use segcore::label_space::{Class, IGNORE, LabelSpace};

use super::MAX_LEVELS;
use super::device::{SharedBank, SharedBatches};
use super::turns::Turns;
use crate::backend::onnxruntime::AsWritten;
use crate::backend::switching::SwitchingEngine;
use crate::backend::tensorrt::{self, Batching, LogWatch};
use crate::backend::{
    self, BackendChoice, BackendInfo, Engine, EngineOptions, NetworkKind, NetworkSource, Selection, first_not_finite,
};
use crate::error::PipelineError;
use crate::receipt;
use crate::sink::track_color;

/// How a model is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeploymentSpec {
    /// The backend asked for.
    pub backend: BackendChoice,
    /// Number format of the networks.
    pub precision: Precision,
    /// Whether an int8 network is executed as written, in floats: slow, and what its accuracy is measured with. The backend
    /// `cpu` knows no other way.
    pub int8_float: bool,
    /// Threads for arithmetic, at least 1.
    pub num_threads: usize,
    /// How streams share runs of the embedding network on a GPU.
    pub batching: Batching,
}

/// Name of the classes that a person named.
const USER_CLASSES: &str = "user";

/// A model, ready to run. Immutable but for the queue of those who use it; all pipelines of a process share one.
pub struct Deployment {
    folder: ModelFolder,
    spec: DeploymentSpec,
    backend: BackendInfo,
    reason: String,
    pub(super) embedding: Arc<dyn Engine>,
    pub(super) grouping: Arc<dyn Engine>,
    bank: Option<Bank>,
    /// What a person named, where there is no bank to lay it over; and how many prototypes of theirs there are.
    user: Option<Overlay>,
    num_of_user: usize,
    /// Classes of the bank, then those that a person named beside them.
    label_space: LabelSpace,
    /// The bank on a GPU, once a stream there asks for it.
    pub(super) device_bank: SharedBank,
    /// Runs of the embedding network there, for several streams at once.
    #[cfg_attr(not(feature = "tensorrt"), expect(dead_code, reason = "there is no such stream"))]
    pub(super) batches: SharedBatches,
    /// Segments per level, n_0 … n_L.
    sizes: Vec<usize>,
    turns: Arc<Turns>,
    /// Makes other engines meanwhile; ends with the deployment.
    _beside: Option<Beside>,
}

/// A thread that makes engines while streams run on others.
struct Beside {
    is_stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // A library that is at work must not see the program end. TensorRT 10 and newer stop soon, 8.6 when it is done.
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::warn!("the thread hsg-build has failed");
        }
    }
}

impl Deployment {
    /// Loads the networks and the bank of a checked model folder.
    ///
    /// # Errors
    /// When the backend does not work here, a network or the bank cannot be loaded, weights are not finite, the files do not
    /// fit each other, or an int8 network has no receipt that vouches for it.
    pub fn load(folder: ModelFolder, mut spec: DeploymentSpec) -> Result<Self, PipelineError> {
        let selection = select(&folder, &mut spec)?;
        if spec.precision == Precision::Int8 {
            receipt::check(&folder)?;
        }
        Self::load_on(folder, spec, selection)
    }

    /// The same, but an int8 network needs no receipt.
    ///
    /// # Errors
    /// As [`Deployment::load`].
    pub fn load_unverified(folder: ModelFolder, mut spec: DeploymentSpec) -> Result<Self, PipelineError> {
        let selection = select(&folder, &mut spec)?;
        Self::load_on(folder, spec, selection)
    }

    /// The same on a backend that the caller brings; neither `spec.backend` nor a receipt is asked for. Tests measure the
    /// pipeline on one without networks.
    ///
    /// # Errors
    /// As [`Deployment::load`].
    pub fn load_on(folder: ModelFolder, spec: DeploymentSpec, selection: Selection) -> Result<Self, PipelineError> {
        let manifest = folder.manifest();
        let missing = |what: &str, got: &Path| PipelineError::Mismatch {
            path: got.to_owned(),
            what: format!("the {what} network in {}", spec.precision),
            expected: "a file listed in model.toml".to_owned(),
            got: "none".to_owned(),
            remedy: "make it with `hsg-calibrate quantize`, or choose another --precision",
        };
        let options = EngineOptions { num_threads: spec.num_threads };
        let load = |kind: NetworkKind| -> Result<Arc<dyn Engine>, PipelineError> {
            let source =
                NetworkSource { folder: &folder, kind, precision: spec.precision, max_batch: spec.batching.most };
            let made = || selection.backend.makes_precisions().then(|| kind.path(&folder, Precision::Fp32)).flatten();
            let path = source.path().or_else(made).ok_or_else(|| missing(&kind.to_string(), folder.path()))?;
            check_weights(&path)?;
            Ok(selection.backend.load_network(&source, options)?)
        };
        let embedding = load(NetworkKind::Embedding)?;
        let grouping = load(NetworkKind::Grouping)?;

        let mut sizes = vec![manifest.num_slots()];
        sizes.extend(manifest.groups());
        if sizes.len() > MAX_LEVELS {
            return Err(PipelineError::Mismatch {
                path: folder.path().join(models::manifest::MANIFEST),
                what: "number of levels".to_owned(),
                expected: format!("at most {MAX_LEVELS}"),
                got: sizes.len().to_string(),
                remedy: "train a model with fewer levels",
            });
        }
        check_tensors(manifest, &*embedding, &*grouping)?;
        let bank = match folder.bank_path() {
            None => None,
            Some(path) => Some(open_bank(&path, &folder)?),
        };
        Ok(Self {
            spec,
            backend: selection.info,
            reason: selection.reason,
            embedding,
            grouping,
            bank,
            user: None,
            num_of_user: 0,
            label_space: folder.label_space().clone(),
            device_bank: SharedBank::default(),
            batches: SharedBatches::default(),
            sizes,
            turns: Arc::default(),
            _beside: None,
            folder,
        })
    }

    /// As [`Deployment::load`] for TensorRT, but where its engines are not built yet, streams begin on the CPU, in fp32, and
    /// move over once they are. What the summary calls the backend is where they began.
    ///
    /// # Errors
    /// As [`Deployment::load`]; that an engine cannot be built is told, and streams stay on the CPU.
    pub fn load_building_beside(folder: ModelFolder, spec: DeploymentSpec) -> Result<Self, PipelineError> {
        if spec.precision == Precision::Int8 {
            receipt::check(&folder)?;
        }
        Self::load_building_beside_unverified(folder, spec)
    }

    /// The same, but an int8 network needs no receipt.
    ///
    /// # Errors
    /// As [`Deployment::load_building_beside`].
    pub fn load_building_beside_unverified(folder: ModelFolder, spec: DeploymentSpec) -> Result<Self, PipelineError> {
        let on_gpu = backend::select(BackendChoice::TensorRt)?;
        let found = tensorrt::look().map_err(backend::BackendError::from)?;
        let Some(mut reason) = tensorrt::missing_engines(&folder, spec.precision, found, spec.batching.most)? else {
            return Self::load_on(folder, spec, on_gpu);
        };
        let most = spec.batching.most;
        // Streams that move over share no runs, so that engines for one frame are what is needed, and built, here.
        let spec = DeploymentSpec { batching: Batching { most: 1, ..spec.batching }, ..spec };
        if most > 1 {
            log::warn!(
                "every source runs the network for itself (`hsg build --max-batch {most}` lets them share runs)"
            );
            match tensorrt::missing_engines(&folder, spec.precision, found, 1)? {
                Some(of_one) => reason = of_one,
                None => return Self::load_on(folder, spec, on_gpu),
            }
        }
        let mut selection = backend::select(BackendChoice::Auto)?;
        selection.reason = format!("until the engines of TensorRT {} are built: {reason}", found.version);
        let mut deployment =
            Self::load_on(folder.clone(), DeploymentSpec { precision: Precision::Fp32, ..spec }, selection)?;
        deployment.switch_later(move |stop| {
            let watch = LogWatch { stop: Some(stop) };
            let load = |kind| {
                let source = NetworkSource { folder: &folder, kind, precision: spec.precision, max_batch: 1 };
                tensorrt::load_watched(&source, &watch)
            };
            Ok([load(NetworkKind::Embedding)?, load(NetworkKind::Grouping)?])
        })?;
        Ok(deployment)
    }

    /// Streams that begin from now on run on the engines that `make` gives, embedding and grouping, once it has. It runs on
    /// a thread of its own and should end when its flag is set; when it fails, that is told, and nothing changes.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn switch_later(
        &mut self,
        make: impl FnOnce(&AtomicBool) -> Result<[Arc<dyn Engine>; 2], PipelineError> + Send + 'static,
    ) -> Result<(), PipelineError> {
        let later: [Arc<OnceLock<Arc<dyn Engine>>>; 2] = Default::default();
        let [embedding, grouping] = later.clone();
        self.embedding = Arc::new(SwitchingEngine::new(Arc::clone(&self.embedding), embedding));
        self.grouping = Arc::new(SwitchingEngine::new(Arc::clone(&self.grouping), grouping));
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (manifest, stop) = (self.manifest().clone(), Arc::clone(&is_stopped));
        let work = move || {
            let made = make(&stop).and_then(|engines| {
                check_tensors(&manifest, &*engines[0], &*engines[1])?;
                Ok(engines)
            });
            match made {
                Ok(engines) => {
                    for (place, engine) in later.iter().zip(engines) {
                        // Filled here and nowhere else, so this cannot fail.
                        let _ = place.set(engine);
                    }
                    log::warn!("the engines are built: the stream runs on them from now on");
                }
                Err(error) => log::warn!("the stream stays on the CPU: {error}"),
            }
        };
        let thread = std::thread::Builder::new().name("hsg-build".to_owned()).spawn(work);
        let thread = Some(thread.map_err(|source| PipelineError::Spawn { source })?);
        self._beside = Some(Beside { is_stopped, thread });
        Ok(())
    }

    /// The model folder.
    pub fn folder(&self) -> &ModelFolder {
        &self.folder
    }

    /// The model's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.folder.manifest()
    }

    /// Classes of segments: those of the model's bank, and after them the names of a person's own ([`Deployment::lay_over`]).
    pub fn label_space(&self) -> &LabelSpace {
        &self.label_space
    }

    /// Lays what a person named over the bank, in the place of what was there before; nothing named changes nothing.
    /// [`label_space_with`] says which classes there are then.
    ///
    /// # Errors
    /// When `user` belongs to another model, or there are more names than train ids; `path` is only for messages.
    pub fn lay_over(&mut self, user: &UserBank, path: &Path) -> Result<(), PipelineError> {
        let manifest = self.folder.manifest();
        user.check_model(self.folder.model_hash(), manifest.network.embedding_dim, path)?;
        let space = label_space_with(user, self.folder.label_space(), self.bank.is_some(), path)?;
        let names: Vec<&str> = space.classes.iter().map(|class| class.name.as_str()).collect();
        let overlay = Overlay::new(user, &names);
        self.num_of_user = overlay.len();
        match &mut self.bank {
            Some(bank) => bank.lay_over(Some(overlay)),
            None => self.user = Some(overlay).filter(|overlay| !overlay.is_empty()),
        }
        self.label_space = space;
        Ok(())
    }

    /// Prototypes that a person named.
    pub fn num_of_user(&self) -> usize {
        self.num_of_user
    }

    /// Train ids of the names that only a person's prototypes have.
    pub fn user_classes(&self) -> BTreeMap<String, u8> {
        let of_bank = if self.bank.is_some() { self.folder.label_space().num_classes() } else { 0 };
        let of_user = self.label_space.classes.iter().skip(of_bank).filter(|_| self.num_of_user > 0);
        of_user.map(|class| (class.name.clone(), class.train_id.0)).collect()
    }

    /// A person's prototypes where there is no bank; those over a bank are part of it.
    pub(super) fn user(&self) -> Option<&Overlay> {
        self.user.as_ref()
    }

    /// Whether segments have classes: there is a bank, or a person named something.
    pub fn has_classes(&self) -> bool {
        self.bank.is_some() || self.user.is_some()
    }

    /// How it is run.
    pub fn spec(&self) -> DeploymentSpec {
        self.spec
    }

    /// The backend that runs it.
    pub fn backend(&self) -> &BackendInfo {
        &self.backend
    }

    /// Why this backend was chosen.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The prototype bank; without one, segments have no class but those that a person named.
    pub fn bank(&self) -> Option<&Bank> {
        self.bank.as_ref()
    }

    /// The queue in front of the engine.
    pub fn turns(&self) -> &Arc<Turns> {
        &self.turns
    }

    /// Number of segment ids per level, finest first.
    pub fn level_sizes(&self) -> &[usize] {
        &self.sizes
    }
}

/// The classes of a model with what a person named. Names that its bank has are its classes. Others are classes of their own and
/// get the train ids after, in the order in which they were first given; without a bank (`has_bank`) all are. Nothing named
/// changes nothing.
///
/// # Errors
/// When there are more names than train ids, 0 to 254; `path` is only for messages.
pub fn label_space_with(
    user: &UserBank,
    of_model: &LabelSpace,
    has_bank: bool,
    path: &Path,
) -> Result<LabelSpace, PipelineError> {
    let mut space = of_model.clone();
    if !has_bank && !user.is_empty() {
        // Classes that nothing can be called.
        space = LabelSpace { name: USER_CLASSES.to_owned(), classes: Vec::new(), ignore_id: IGNORE };
    }
    for name in user.names() {
        if space.classes.iter().any(|class| same_name(&class.name, name)) {
            continue;
        }
        let id = u8::try_from(space.classes.len()).ok().filter(|id| *id != IGNORE);
        let id = id.ok_or_else(|| PipelineError::Mismatch {
            path: path.to_owned(),
            what: "names of yours and classes of the model together".to_owned(),
            expected: format!("at most {IGNORE}"),
            got: "more".to_owned(),
            remedy: "remove some with `hsg bank remove NAME`",
        })?;
        if has_bank && space.name == of_model.name {
            space.name = format!("{}+{USER_CLASSES}", space.name);
        }
        space.classes.push(Class {
            name: name.to_owned(),
            train_id: TrainId(id),
            color: track_color(u32::from(id)),
            thing: false,
            class_id: ClassId(i32::from(id)),
        });
    }
    Ok(space)
}

/// The backend that a spec asks for, and with it the way int8 and fp16 are executed, in the words of its reason.
///
/// Streams share runs only where the engine for that is there or was asked for by name: `auto` takes one for a single frame
/// before it leaves the GPU.
fn select(folder: &ModelFolder, spec: &mut DeploymentSpec) -> Result<Selection, backend::BackendError> {
    let most = spec.batching.most;
    let mut selection = backend::select_for(spec.backend, folder, spec.precision, most)?;
    if spec.backend == BackendChoice::Auto && most > 1 && selection.info.device.is_none() {
        let for_one = backend::select_for(spec.backend, folder, spec.precision, 1)?;
        if for_one.info.device.is_some() {
            spec.batching.most = 1;
            let how = format!("every source runs the network for itself (`hsg build --max-batch {most}`)");
            selection = Selection { reason: format!("{}; {how}", for_one.reason), ..for_one };
        }
    }
    if selection.info.device.is_some() {
        // A GPU computes in the precision of its engine.
        return Ok(selection);
    }
    let fused = selection.info.name == backend::onnxruntime::NAME;
    let how = match (spec.precision, fused) {
        (Precision::Fp32, _) => return Ok(selection),
        (Precision::Fp16, _) => "fp16 on a CPU is rounded weights in fp32 arithmetic: no faster than fp32",
        (Precision::Int8, false) => "int8 is computed in floats here: exact, but no faster than fp32",
        (Precision::Int8, true) if spec.int8_float => {
            selection.backend = Box::new(AsWritten);
            "int8 is executed as written, in floats"
        }
        (Precision::Int8, true) if backend::int8_saturates() => {
            "int8 is executed by integer kernels; this CPU has no VNNI, so their 16-bit sums may saturate (--int8-float is \
             exact)"
        }
        (Precision::Int8, true) => "int8 is executed by integer kernels",
    };
    selection.reason = format!("{}; {how}", selection.reason);
    Ok(selection)
}

/// Refuses weights that are not finite. The outputs are checked on every frame too, but a ReLU may turn NaN into 0.
fn check_weights(path: &Path) -> Result<(), PipelineError> {
    let bytes = models::files::read_file(path)?;
    let (_, weights) = models::onnx::read(&bytes, path)?;
    for (name, tensor) in &weights {
        if let Some(index) = first_not_finite(&tensor.values) {
            return Err(PipelineError::Mismatch {
                path: path.to_owned(),
                what: format!("the weights `{name}`, index {index}"),
                expected: "finite numbers".to_owned(),
                got: tensor.values[index].to_string(),
                remedy: "export the model again from a checkpoint whose training did not diverge",
            });
        }
    }
    Ok(())
}

/// Compares the networks' inputs and outputs with the manifest.
fn check_tensors(manifest: &Manifest, embedding: &dyn Engine, grouping: &dyn Engine) -> Result<(), PipelineError> {
    let names = &manifest.tensors;
    let (dim, slots, extent) = (manifest.network.embedding_dim, manifest.num_slots(), manifest.position_extent);
    let check = |engine: &dyn Engine, output: bool, name: &str, expected: &[Option<usize>]| {
        let tensors = if output { engine.outputs() } else { engine.inputs() };
        let found = tensors.iter().find(|tensor| tensor.name == name);
        let fits = found.is_some_and(|tensor| {
            tensor.shape.len() == expected.len()
                && tensor
                    .shape
                    .iter()
                    .zip(expected)
                    .all(|(got, expected)| got.is_none() || expected.is_none() || got == expected)
        });
        if fits {
            return Ok(());
        }
        Err(PipelineError::Mismatch {
            path: engine.path().to_owned(),
            what: format!("the {} `{name}`", if output { "output" } else { "input" }),
            expected: shape_text(expected),
            got: found.map_or("none of that name".to_owned(), |tensor| shape_text(&tensor.shape)),
            remedy: "the file does not belong to this model.toml: export the model again",
        })
    };
    check(embedding, false, &names.image, &[Some(1), Some(3), None, None])?;
    check(embedding, true, &names.embedding, &[Some(1), Some(dim), None, None])?;
    check(grouping, false, &names.features, &[Some(1), Some(dim), Some(slots)])?;
    check(grouping, false, &names.positions, &[Some(1), Some(2 * extent), Some(slots)])?;
    check(grouping, false, &names.valid, &[Some(1), Some(slots)])?;
    let mut below = slots;
    for (index, &groups) in manifest.groups().iter().enumerate() {
        let name = models::arch::grouping::names::transition(index + 1);
        check(grouping, true, &name, &[Some(1), Some(below), Some(groups)])?;
        below = groups;
    }
    Ok(())
}

fn shape_text(shape: &[Option<usize>]) -> String {
    let axes: Vec<String> = shape.iter().map(|axis| axis.map_or("any".to_owned(), |n| n.to_string())).collect();
    format!("[{}]", axes.join(", "))
}

fn open_bank(path: &Path, folder: &ModelFolder) -> Result<Bank, PipelineError> {
    let bank = Bank::open(path)?;
    bank.check_model(folder.model_hash())?;
    let manifest = folder.manifest();
    let fits = |what: &str, expected: String, got: String| {
        if expected == got {
            return Ok(());
        }
        Err(PipelineError::Mismatch {
            path: path.to_owned(),
            what: what.to_owned(),
            expected,
            got,
            remedy: "the bank was built with another model: build it again with `hsg bank build`",
        })
    };
    fits("dimension", manifest.network.embedding_dim.to_string(), bank.dim().to_string())?;
    fits("label space", manifest.label_space.clone(), bank.label_space().to_owned())?;
    Ok(bank)
}
