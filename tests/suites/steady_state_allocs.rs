//! After warm-up a frame allocates nothing, in no thread: neither on its way through the pipeline nor into the published
//! stream. With the fake backend nothing at all; with the embedded one nothing outside its own `run`.
//!
//! One test, because the allocator counts what the whole process does, the harness between two tests included.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retrieval::{UserBank, UserOrigin};
use runtime::backend::cpu::CpuBackend;
use runtime::backend::{Backend, BackendError, BackendInfo, Engine, EngineOptions, Session, TensorBuffer, TensorInfo};
use runtime::pipeline::publish::{Measurements, Sink};
use runtime::pipeline::{self, Control, Deployment, PipelineSpec, Processor, ProcessorSpec, Progress, Resolution};
use runtime::sink::{
    Broadcast, BroadcastSink, DiskBudget, FileSinks, FileSinksSpec, LivePage, LivePictures, PublishTo, Publisher,
    SaveKinds, SegmentedFrame, SinkError,
};
use tests::fake_backend::{FakeBackend, deploy_on};
use tests::folders::tiny_model;
use tests::moving::MovingStreet;
use tests::networks::model_with_bank;

/// Frames before counting begins, and frames counted. Vectors reach their size within one way of the source's pictures;
/// what grows by one entry a frame or every 64 frames shows within 200.
const WARM_UP: u64 = 60;
const COUNTED: u64 = 200;

/// The system's allocator, which counts while [`COUNTING`].
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
/// A network runs, whose own allocations are left out.
static IN_NETWORK: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Where the first few came from.
static PLACES: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// Taking down where an allocation came from allocates itself.
    static TAKING_DOWN: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: usize) {
    if !COUNTING.load(Ordering::Relaxed) || IN_NETWORK.load(Ordering::Relaxed) || TAKING_DOWN.get() {
        return;
    }
    if ALLOCATIONS.fetch_add(1, Ordering::Relaxed) < 4 {
        TAKING_DOWN.set(true);
        if let Ok(mut places) = PLACES.lock() {
            let thread = fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
            // The functions alone, from the allocator's caller up.
            let trace = Backtrace::force_capture().to_string();
            let calls = trace.lines().filter(|line| !line.trim_start().starts_with("at "));
            let calls: Vec<&str> = calls.map(|line| &line[..line.floor_char_boundary(100)]).take(25).collect();
            places.push(format!("{bytes} bytes in {}:\n{}", thread.trim(), calls.join("\n")));
        }
        TAKING_DOWN.set(false);
    }
}

// SAFETY: every call is handed to the system's allocator as it is; counting neither reads nor writes the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts from the frame [`WARM_UP`] to the frame [`WARM_UP`] + [`COUNTED`], as they come out of the pipeline.
struct Window {
    inner: Box<dyn Sink>,
    /// Memory that is allocated and freed for every frame: the proof that the test can fail.
    wasted_bytes: usize,
    threads: Arc<Mutex<Vec<BTreeSet<String>>>>,
}

impl Sink for Window {
    fn show(&mut self, frame: &SegmentedFrame) -> ControlFlow<()> {
        self.inner.show(frame)
    }

    fn measured(&mut self, frame: &SegmentedFrame, latency_nanos: u64, so_far: &Measurements) {
        self.inner.measured(frame, latency_nanos, so_far);
    }

    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        if frame.sequence == WARM_UP {
            self.threads.lock().unwrap().push(threads());
            COUNTING.store(true, Ordering::SeqCst);
        }
        if frame.sequence == WARM_UP + COUNTED {
            COUNTING.store(false, Ordering::SeqCst);
            self.threads.lock().unwrap().push(threads());
        }
        drop(std::hint::black_box(Vec::<u8>::with_capacity(self.wasted_bytes)));
        self.inner.write(frame)
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.inner.finish()
    }
}

/// The published stream, into memory that is used again.
struct ToWire {
    publisher: Publisher,
    bytes: Vec<u8>,
}

impl Sink for ToWire {
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        self.bytes.clear();
        wire::encode_into(self.publisher.publish(frame), &mut self.bytes).expect("the frame is published");
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        assert!(self.bytes.len() > 100, "something was published");
        Ok(())
    }
}

fn to_wire() -> Box<dyn Sink> {
    // Room for any frame of this size: how long a frame is depends on what is in it.
    Box::new(ToWire { publisher: Publisher::default(), bytes: Vec::with_capacity(1 << 20) })
}

/// Published to a subscriber, which has each frame before the next one comes: how many wait is no matter of chance.
struct ToSubscriber {
    sink: BroadcastSink,
    broadcast: Broadcast,
    subscriber: UnixStream,
    bytes: Vec<u8>,
}

impl ToSubscriber {
    fn new(socket: &Path) -> Self {
        let broadcast = Broadcast::open(&[PublishTo::Unix(socket.to_owned())], Arc::default()).unwrap().unwrap();
        let mut subscriber = UnixStream::connect(socket).expect("it listens");
        let mut header = [0; wire::HEADER_BYTES];
        subscriber.read_exact(&mut header).expect("a header");
        Self { sink: broadcast.add_source([0; 32]), broadcast, subscriber, bytes: vec![0; 1 << 20] }
    }
}

impl Sink for ToSubscriber {
    fn write(&mut self, frame: &SegmentedFrame) -> Result<(), SinkError> {
        assert!(self.sink.show(frame).is_continue());
        let mut length = [0; wire::LENGTH_BYTES];
        self.subscriber.read_exact(&mut length).expect("the length of a frame");
        let body = &mut self.bytes[..u32::from_le_bytes(length) as usize];
        self.subscriber.read_exact(body).expect("a frame");
        Ok(())
    }

    fn finish(&mut self) -> Result<(), SinkError> {
        self.broadcast.close()?;
        let [published] = &self.broadcast.summary(0)[..] else { panic!("one place") };
        assert_eq!((published.subscribers, published.frames, published.lost), (1, WARM_UP + COUNTED + 20, 0));
        Ok(())
    }
}

/// The threads of this process.
fn threads() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc/self/task").expect("the threads of this process");
    entries.map(|entry| entry.expect("a thread").file_name().to_string_lossy().into_owned()).collect()
}

/// A backend whose `run` is not counted.
struct Uncounted<B>(B);
struct UncountedEngine(Arc<dyn Engine>);
struct UncountedSession(Box<dyn Session>);

impl<B: Backend> Backend for Uncounted<B> {
    fn probe(&self) -> Result<BackendInfo, BackendError> {
        self.0.probe()
    }

    fn load(&self, path: &Path, options: EngineOptions) -> Result<Arc<dyn Engine>, BackendError> {
        Ok(Arc::new(UncountedEngine(self.0.load(path, options)?)))
    }
}

impl Engine for UncountedEngine {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn inputs(&self) -> &[TensorInfo] {
        self.0.inputs()
    }

    fn outputs(&self) -> &[TensorInfo] {
        self.0.outputs()
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>, BackendError> {
        Ok(Box::new(UncountedSession(Arc::clone(&self.0).session()?)))
    }
}

impl Session for UncountedSession {
    fn run(
        &mut self,
        inputs: &[(&str, &[usize], &[f32])],
        outputs: &mut [(&str, &mut TensorBuffer)],
    ) -> Result<(), BackendError> {
        IN_NETWORK.store(true, Ordering::SeqCst);
        let result = self.0.run(inputs, outputs);
        IN_NETWORK.store(false, Ordering::SeqCst);
        result
    }
}

struct Case {
    name: &'static str,
    live: bool,
    /// One stage at a time: what is left out of the network's run is then nobody else's.
    in_step: bool,
    spec: ProcessorSpec,
    sink: Box<dyn Sink>,
    wasted_bytes: usize,
}

impl Case {
    fn new(name: &'static str) -> Self {
        let spec = ProcessorSpec { tracking: true, ..ProcessorSpec::default() };
        Self { name, live: false, in_step: false, spec, sink: to_wire(), wasted_bytes: 0 }
    }
}

/// Runs a case and returns the allocations of the frames that are counted.
fn allocations(deployment: &Arc<Deployment>, case: Case) -> u64 {
    let progress = Arc::<Progress>::default();
    let mut source = MovingStreet::new(case.live);
    if case.in_step {
        source = source.in_step_with(&progress);
    }
    let mut processor = Processor::new(Arc::clone(deployment), case.spec).unwrap();
    let seen = Arc::<Mutex<Vec<BTreeSet<String>>>>::default();
    let mut sink = Window { inner: case.sink, wasted_bytes: case.wasted_bytes, threads: Arc::clone(&seen) };
    let frames = WARM_UP + COUNTED + 20;
    let spec = PipelineSpec { name: case.name.to_owned(), max_frames: Some(frames), realtime_hz: None };
    ALLOCATIONS.store(0, Ordering::SeqCst);
    let report = pipeline::run(&mut source, &mut processor, &mut sink, &spec, &Control::default(), &progress).unwrap();
    assert_eq!(report.measured.frames, frames, "{}", case.name);
    if deployment.bank().is_some() {
        assert!(report.measured.named > 0, "{}: segments have names", case.name);
    }
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], seen[1], "{}: threads of the process before and after {COUNTED} frames", case.name);
    ALLOCATIONS.load(Ordering::SeqCst)
}

fn assert_none(deployment: &Arc<Deployment>, case: Case) {
    let name = case.name;
    let got = allocations(deployment, case);
    let places = std::mem::take(&mut *PLACES.lock().unwrap());
    assert_eq!(got, 0, "{name}: allocations in {COUNTED} frames, the first ones:\n{}", places.join("\n"));
}

/// The model with 40 prototypes laid over its bank.
fn with_names(mut deployment: Arc<Deployment>) -> Arc<Deployment> {
    let dim = deployment.manifest().network.embedding_dim;
    let mut user = UserBank::new(deployment.folder().model_hash(), dim);
    for index in 0..40usize {
        let prototype: Vec<f32> = (0..dim).map(|channel| ((index * 37 + channel * 11) as f32 * 0.9).sin()).collect();
        user.add(["sky", "forklift", "crane"][index % 3], &prototype, UserOrigin::default()).unwrap();
    }
    Arc::get_mut(&mut deployment).unwrap().lay_over(&user, Path::new("none.user")).unwrap();
    assert!(deployment.num_of_user() > 30);
    deployment
}

/// A frame's whole way on the GPU, in a process with the stand-ins. Nothing is left out of the count: TensorRT and the driver
/// are C, which this allocator does not see.
#[cfg(feature = "tensorrt")]
fn on_the_gpu() {
    use models::manifest::{ModelFolder, Precision};
    use runtime::backend::BackendChoice;
    use runtime::pipeline::{DeploymentSpec, Placement};

    tests::stand_ins::with_stand_ins("a_frame_allocates_nothing", &[], |folder| {
        let model = model_with_bank(folder);
        let spec = DeploymentSpec {
            backend: BackendChoice::TensorRt,
            precision: Precision::Fp16,
            int8_float: false,
            num_threads: 2,
            batching: Default::default(),
        };
        let deployment = Arc::new(Deployment::load(ModelFolder::open(&model).unwrap(), spec).unwrap());
        let device = ProcessorSpec { placement: Placement::Auto, tracking: true, ..ProcessorSpec::default() };
        assert_none(&deployment, Case { spec: device, ..Case::new("on the GPU") });
        let spec = ProcessorSpec { resolution: Resolution::Nearest, tracking: false, ..device };
        assert_none(&deployment, Case { spec, ..Case::new("on the GPU, frame by frame, not refined") });
        two_streams(&deployment, device);
    });
}

/// Two streams that share runs of the embedding network, neither of which allocates.
#[cfg(feature = "tensorrt")]
fn two_streams(deployment: &Arc<Deployment>, device: ProcessorSpec) {
    use runtime::backend::tensorrt::Batching;
    use runtime::pipeline::DeploymentSpec;

    // Longer than a frame takes here.
    let batching = Batching { most: 2, wait: Duration::from_secs(2) };
    let spec = DeploymentSpec { batching, ..deployment.spec() };
    let deployment = Arc::new(Deployment::load(deployment.folder().clone(), spec).unwrap());
    let stop = Arc::<AtomicBool>::default();
    let progress = Progress::default();
    let batches = std::thread::scope(|scope| {
        // It is warm before the other one counts, and goes on after.
        let beside = scope.spawn(|| {
            let mut processor = Processor::new(Arc::clone(&deployment), device).unwrap();
            let spec = PipelineSpec { name: "beside".to_owned(), max_frames: None, realtime_hz: None };
            let (sink, control) = (&mut pipeline::publish::Discard, Control::new(Arc::clone(&stop)));
            pipeline::run(&mut MovingStreet::new(false), &mut processor, sink, &spec, &control, &progress).unwrap()
        });
        while progress.frames.load(Ordering::Relaxed) < WARM_UP && !beside.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_none(&deployment, Case { spec: device, ..Case::new("on the GPU, together with another") });
        stop.store(true, Ordering::Relaxed);
        beside.join().unwrap().measured.batches
    });
    assert!(batches[1] >= COUNTED / 2, "runs by size: {batches:?}");
}

#[test]
fn a_frame_allocates_nothing() {
    #[cfg(feature = "tensorrt")]
    if std::env::var_os("HSG_TEST_STAND_INS").is_some() {
        return on_the_gpu();
    }
    let folder = tests::folders::socket_folder();
    let model = model_with_bank(folder.path());
    let fake = FakeBackend::default().deploy(&model, 2);

    assert_none(&fake, Case::new("tracked"));
    assert_none(&fake, Case { live: true, ..Case::new("live, the newest frame wins") });
    let spec = ProcessorSpec { tracking: true, resolution: Resolution::Nearest, ..ProcessorSpec::default() };
    assert_none(&fake, Case { spec, ..Case::new("not refined") });
    let spec = ProcessorSpec { tracking: true, resolution: Resolution::Pixels, ..ProcessorSpec::default() };
    assert_none(&fake, Case { spec, ..Case::new("pixels") });
    assert_none(&fake, Case { spec: ProcessorSpec::default(), ..Case::new("frame by frame") });
    // Every frame is late, but not by so much that the ladder is taken: its clock runs.
    let spec = ProcessorSpec { deadline: Some(Duration::from_secs(5)), ..Case::new("").spec };
    assert_none(&fake, Case { spec, ..Case::new("with a deadline") });
    let sink = FileSinks::create(FileSinksSpec {
        folder: folder.path().join("out"),
        save: SaveKinds { frames: true, ..SaveKinds::NONE },
        rate_hz: None,
        label_space: fake.label_space().clone(),
        has_classes: true,
        budget: DiskBudget::new(None),
    });
    assert_none(&fake, Case { sink: Box::new(sink.unwrap()), ..Case::new("frames.hsg") });
    let sink = Box::new(ToSubscriber::new(&folder.path().join("s")));
    assert_none(&fake, Case { sink, ..Case::new("published to a subscriber") });

    // Nobody looks at it.
    let pictures = LivePictures { rate_hz: 30.0, width: 1280, quality: 80 };
    let mut page = LivePage::open("127.0.0.1:0".parse().unwrap(), pictures).unwrap();
    let sink = page.show(&fake, [("page".to_owned(), Arc::default())]).unwrap().remove(0);
    assert_none(&fake, Case { sink: Box::new(sink), ..Case::new("a live page") });
    drop(page);

    for (model, name) in [(&model, "names of a person's own"), (&tiny_model(), "nothing but names of a person's own")] {
        let named = with_names(FakeBackend::default().deploy(model, 2));
        assert_none(&named, Case::new(name));
        assert_none(&named, Case { spec: ProcessorSpec::default(), ..Case::new(name) });
    }

    let cpu = deploy_on(Uncounted(CpuBackend::default()), &model, 2);
    assert_none(&cpu, Case { in_step: true, ..Case::new("the embedded backend") });

    #[cfg(feature = "tensorrt")]
    on_the_gpu();

    // A byte per frame would be noticed.
    let wasteful = Case { wasted_bytes: 1, ..Case::new("wasteful") };
    assert_eq!(allocations(&fake, wasteful), COUNTED);
}
