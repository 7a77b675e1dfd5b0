//! One run of the embedding network for the frames of several streams: where they meet.
//!
//! Each stream ("member") preprocesses into memory of its own, on a CUDA stream of its own, and comes here. While a run is on the
//! GPU, whoever comes waits; when it ends, all that wait go as the next run, in the order of coming. So nobody waits for a frame
//! that is not there, runs grow when the GPU is behind, and a single stream runs at once. [`Batching::wait`] adds a bounded wait
//! for streams that usually come, from the moment at which the GPU is free:
//! without it two streams hardly ever meet, since one of them is always in the run that the other waits for.
//!
//! There is no thread for this. The first in the queue takes the [`Launcher`], of which there is one, waits for the run before,
//! and starts the next for all (`meeting.rs` is that queue): the run's stream waits, on the GPU, for every member's preprocessing; frames are copied
//! together, features apart; every member's stream goes on when its features are there. A member alone lends the network its
//! own memory, and nothing is copied.
//!
//! **Sizes.** A run has frames of one input shape: that of the first in the queue; others wait for the next run. Streams of
//! different shapes (aspect ratios; the ladder of `degrade.rs`) therefore take turns for the network alone. Masks and everything
//! else that tells streams apart come after the network.
//!
//! **One context** for all of them, not one for each stream: what a context takes is for the largest run.
//!
//! **Failures.** When a run cannot be started, all its members get the error, and the next run begins with a context that is
//! made anew. Features that are no numbers are found by each member for itself. A member that goes (an unplugged camera, an
//! end, a panic) is taken out of the queue; nobody holds anything while it waits for frames.
//!
//! Nothing is allocated per frame: memory changes hands with its owner's [`Seat`].

use std::sync::Arc;

use models::manifest::Manifest;

use super::Batching;
use super::backend::{TensorRtEngine, check_profile};
use super::device_network::DeviceNetwork;
use super::meeting::{Meeting, Runner, Ticket};
use crate::backend::cuda::{Buffer, Cuda, Event, Memory, Noise, noise};
use crate::backend::{BackendError, BackendErrorKind, run_error};

/// The meeting place of a deployment's streams.
pub struct Batches {
    engine: Arc<TensorRtEngine>,
    /// Name of the network's input.
    image: String,
    meeting: Meeting<Launcher>,
}

/// A member's memory on the GPU.
struct Seat {
    /// Of the image: `[1, 3, h, w]`.
    shape: [usize; 4],
    image: Memory<Buffer, f32>,
    features: Memory<Buffer, f32>,
    /// The image is there.
    ready: Event,
    /// The features are.
    done: Event,
}

/// What runs the network. Fields end in order: the context before CUDA.
struct Launcher {
    /// None after a failure, until the next run.
    network: Option<DeviceNetwork>,
    /// The shape that it has, the number of frames first.
    shape: Option<[usize; 4]>,
    engine: Arc<TensorRtEngine>,
    /// Names of the network's input and output.
    image: String,
    embedding: String,
    /// Most frames of a run.
    most: usize,
    /// The end of the last run.
    done: Event,
    cuda: Cuda,
    /// Last, so that it covers the end of all others.
    _leaving: Option<Noise>,
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // A lost device leaves nothing to be done.
        let _ = self.cuda.synchronize();
        self._leaving = Some(noise());
    }
}

impl Batches {
    /// For the streams of a model with this engine; none when it takes one frame at a time.
    ///
    /// # Errors
    /// When memory runs out, or driver or TensorRT refuse.
    pub fn new(
        manifest: &Manifest,
        engine: &Arc<TensorRtEngine>,
        batching: Batching,
    ) -> Result<Option<Arc<Self>>, BackendError> {
        let names = &manifest.tensors;
        let image = engine.tensors.iter().find(|tensor| tensor.is_input && tensor.name == names.image);
        let most = image.and_then(|image| image.most.first().copied()).unwrap_or(1).min(batching.most);
        if most < 2 {
            return Ok(None);
        }
        let _noise = noise();
        let cuda = Cuda::without_kernels()?;
        let launcher = Launcher {
            network: Some(DeviceNetwork::new(Arc::clone(engine), &cuda)?),
            shape: None,
            engine: Arc::clone(engine),
            image: names.image.clone(),
            embedding: names.embedding.clone(),
            most,
            done: cuda.event()?,
            cuda,
            _leaving: None,
        };
        Ok(Some(Arc::new(Self {
            engine: Arc::clone(engine),
            image: names.image.clone(),
            meeting: Meeting::new(Batching { most, ..batching }, launcher),
        })))
    }

    /// A place for one more stream.
    pub fn join(self: &Arc<Self>) -> Member {
        Member { batches: Arc::clone(self), number: self.meeting.join(), seat: None }
    }

    /// Takes the memory of the largest run of such frames, so that it is known at once that there is none.
    fn reserve(&self, member: u64, shape: [usize; 4]) -> Result<(), BackendError> {
        let [_, channels, height, width] = shape;
        self.meeting.with_runner(member, |launcher| {
            let most = launcher.most;
            let outcome = launcher
                .done
                .wait()
                .and_then(|()| launcher.network([most, channels, height, width]).map(drop))
                .map_err(|error| {
                    BackendError::new(
                        error.kind(),
                        format!("{error} (for runs of {most} frames; `--batch` sets how many)"),
                    )
                });
            if outcome.is_err() {
                // Begun anew by the next run.
                let _ = launcher.give_up();
            }
            outcome
        })
    }
}

impl Runner for Launcher {
    type Seat = Seat;

    fn shape(seat: &Seat) -> [usize; 4] {
        seat.shape
    }

    fn wait(&mut self) -> Result<(), BackendError> {
        self.done.wait()
    }

    fn launch(&mut self, batch: &mut [Ticket<Seat>]) -> Result<(), BackendError> {
        let Err(error) = self.start(batch) else { return Ok(()) };
        // TensorRT does not tell that the device is lost, which is why it failed then.
        match self.give_up() {
            Err(lost) if lost.kind() == BackendErrorKind::DeviceLost && error.kind() != lost.kind() => {
                Err(BackendError::new(BackendErrorKind::DeviceLost, format!("{error}: {lost}")))
            }
            _ => Err(error),
        }
    }

    /// Forgets the context, too.
    fn give_up(&mut self) -> Result<(), BackendError> {
        let ended = self.cuda.synchronize();
        self.shape = None;
        let _noise = noise();
        self.network = None;
        ended
    }
}

impl Launcher {
    /// The network, for runs of this shape.
    fn network(&mut self, wanted: [usize; 4]) -> Result<&mut DeviceNetwork, BackendError> {
        let Self { network, shape, engine, image, most, cuda, .. } = self;
        // What TensorRT does on its own account when a context is made or gets another shape spoils no capture.
        let _noise = (*shape != Some(wanted)).then(noise);
        let network = match network {
            Some(network) => network,
            None => network.insert(DeviceNetwork::new(Arc::clone(engine), cuda)?),
        };
        if *shape != Some(wanted) {
            *shape = None;
            network.set_batch(cuda, image, &wanted, *most)?;
            *shape = Some(wanted);
        }
        Ok(network)
    }

    fn start(&mut self, batch: &mut [Ticket<Seat>]) -> Result<(), BackendError> {
        let Some(first) = batch.first() else { return Ok(()) };
        let [_, channels, height, width] = first.seat.shape;
        let num_features = first.seat.features.len();
        let num_frames = batch.len();
        self.network([num_frames, channels, height, width])?;
        let Self { network, engine, image, embedding, done, cuda, .. } = self;
        let Some(network) = network else {
            return Err(run_error(&engine.path, "there is no context"));
        };
        let of_network = network.num_values(embedding);
        if of_network != num_frames * num_features {
            let what = format!("`{embedding}` has {of_network} values, {num_features} of each frame were expected");
            return Err(run_error(&engine.path, what));
        }
        for ticket in batch.iter() {
            cuda.wait_for(&ticket.seat.ready)?;
        }
        if let [ticket] = &*batch {
            let Seat { image: pixels, features, .. } = &*ticket.seat;
            network.enqueue_over(cuda, &[(image, pixels), (embedding, features)])?;
        } else {
            for (index, ticket) in batch.iter().enumerate() {
                let from = &ticket.seat.image;
                cuda.copy_range((from, 0), (network.memory_mut(image)?, index * from.len()), from.len())?;
            }
            network.enqueue_over(cuda, &[])?;
            for (index, ticket) in batch.iter_mut().enumerate() {
                let to = &mut ticket.seat.features;
                let len = to.len();
                cuda.copy_range((network.memory(embedding)?, index * len), (to, 0), len)?;
            }
        }
        for ticket in batch.iter() {
            cuda.record(&ticket.seat.done)?;
        }
        cuda.record(done)
    }
}

/// One stream's place among the others.
pub struct Member {
    batches: Arc<Batches>,
    number: u64,
    /// None before the first shape, and when it was lost with a thread that failed.
    seat: Option<Box<Seat>>,
}

impl Member {
    /// Memory for images of this shape, `[1, 3, h, w]`, and their `num_features` values. `cuda` is the stream that writes and
    /// reads it; nothing of it may be under way.
    ///
    /// # Errors
    /// When the engine was not built for the shape, or memory runs out.
    pub fn set_shape(&mut self, cuda: &Cuda, shape: [usize; 4], num_features: usize) -> Result<(), BackendError> {
        let Batches { engine, image, .. } = &*self.batches;
        check_profile(&engine.path, image, &shape, &engine.tensors)?;
        if self.seat.as_ref().is_none_or(|seat| seat.shape != shape || seat.features.len() != num_features) {
            // The old one goes first: there may be no room for both.
            self.seat = None;
            self.seat = Some(Box::new(Seat {
                shape,
                image: Memory::zeros(cuda, shape.iter().product())?,
                features: Memory::zeros(cuda, num_features)?,
                ready: cuda.event()?,
                done: cuda.event()?,
            }));
        }
        self.batches.reserve(self.number, shape)?;
        self.batches.meeting.set_shape(self.number, shape);
        Ok(())
    }

    /// Has the network run over the image that `cuda`'s stream will have written, together with those of others; what is started
    /// on that stream from now on finds the features. Returns how many frames the run has.
    ///
    /// # Errors
    /// When the run cannot be started.
    pub fn embed(&mut self, cuda: &Cuda) -> Result<usize, BackendError> {
        let seat = self.seat.take().ok_or_else(|| self.no_seat())?;
        if let Err(error) = cuda.record(&seat.ready) {
            self.seat = Some(seat);
            return Err(error);
        }
        let (seat, outcome) = self.batches.meeting.run(self.number, seat);
        let outcome = outcome.and_then(|num_frames| cuda.wait_for(&seat.done).map(|()| num_frames));
        self.seat = Some(seat);
        outcome
    }

    /// Where images are written.
    ///
    /// # Errors
    /// When no shape was set.
    pub fn image(&self) -> Result<&Memory<Buffer, f32>, BackendError> {
        self.seat.as_ref().map(|seat| &seat.image).ok_or_else(|| self.no_seat())
    }

    /// Where features are, `[1, dim, rows, columns]`.
    ///
    /// # Errors
    /// When no shape was set.
    pub fn features(&self) -> Result<&Memory<Buffer, f32>, BackendError> {
        self.seat.as_ref().map(|seat| &seat.features).ok_or_else(|| self.no_seat())
    }

    fn no_seat(&self) -> BackendError {
        run_error(&self.batches.engine.path, "no shape was set for its images")
    }

    /// The network's file, for messages.
    pub fn path(&self) -> &std::path::Path {
        &self.batches.engine.path
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.batches.meeting.leave(self.number);
    }
}

/// The embedding network of a stream: its own, or a place among others.
pub enum Embedding {
    /// Its own context and memory.
    Own(DeviceNetwork),
    /// A context together with others.
    Shared(Member),
}

impl Embedding {
    /// Sets memory up for images of this shape, `[1, 3, h, w]`. Nothing may be under way.
    ///
    /// # Errors
    /// As [`Member::set_shape`].
    pub fn set_shape(
        &mut self,
        cuda: &Cuda,
        manifest: &Manifest,
        shape: [usize; 4],
        num_features: usize,
    ) -> Result<(), BackendError> {
        match self {
            Self::Own(network) => network.set_shape(cuda, &manifest.tensors.image, &shape),
            Self::Shared(member) => member.set_shape(cuda, shape, num_features),
        }
    }

    /// What is started before the rest of a frame's work and is no part of its graph: a run together with others, of so many
    /// frames. Nothing, and 0, where the stream runs the network for itself.
    ///
    /// # Errors
    /// As [`Member::embed`].
    pub fn run_with_others(&mut self, cuda: &Cuda) -> Result<usize, BackendError> {
        match self {
            Self::Own(_) => Ok(0),
            Self::Shared(member) => member.embed(cuda),
        }
    }

    /// What is started together with the rest of a frame's work: the stream's own run, if it has one.
    ///
    /// # Errors
    /// In TensorRT's words.
    pub fn run_alone(&mut self, cuda: &Cuda) -> Result<(), BackendError> {
        match self {
            Self::Own(network) => network.enqueue(cuda),
            Self::Shared(_) => Ok(()),
        }
    }

    /// Where images are written.
    ///
    /// # Errors
    /// When the network has no such input, or no shape.
    pub fn image(&self, manifest: &Manifest) -> Result<&Memory<Buffer, f32>, BackendError> {
        match self {
            Self::Own(network) => network.memory(&manifest.tensors.image),
            Self::Shared(member) => member.image(),
        }
    }

    /// Where features are.
    ///
    /// # Errors
    /// When the network has no such output, or no shape.
    pub fn features(&self, manifest: &Manifest) -> Result<&Memory<Buffer, f32>, BackendError> {
        match self {
            Self::Own(network) => network.memory(&manifest.tensors.embedding),
            Self::Shared(member) => member.features(),
        }
    }

    /// The network's file, for messages.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Own(network) => network.path(),
            Self::Shared(member) => member.path(),
        }
    }

    /// Whether the network is shared with other streams.
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}
