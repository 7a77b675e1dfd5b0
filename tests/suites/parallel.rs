//! Several ranks against one process that has all their images: as threads everywhere, under mpirun where it is
//! installed.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;

use models::arch::{OutputStride, embedding_net};
use models::params::initial_weights;
use tch::{Device, Kind, Tensor};
use tests::pictures::street_dataset;
use tests::programs::{Sandbox, Started, hsg_train};
use tests::skip;
use tests::training::{Run, tiny_settings};
use trainer::base_segments::NO_REGION;
use trainer::graph_module::{GraphModule, Mode, ParamStore};
use trainer::objective::{ObjectiveModule, Views};
use trainer::parallel::{BatchNorm, Communicator, Ranks, batch_norm, threads};
use trainer::profile::Profiler;
use trainer::settings::TrainSettings;
use trainer::{Result, TrainError};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// |got − expected| ≤ tolerance · max(largest |expected|, floor).
#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64, floor: f64) {
    assert_eq!(got.size(), expected.size(), "{what}: shape");
    let scale = expected.abs().max().double_value(&[]).max(floor);
    let difference = (got.detach() - expected.detach()).abs().max().double_value(&[]);
    assert!(difference <= tolerance * scale, "{what}: differs by {difference:e}, allowed {tolerance:e} × {scale:e}");
}

/// The same numbers on every rank and in every order of tests: tch's random state belongs to the whole process.
fn numbers(size: &[i64], seed: u64) -> Tensor {
    let count = size.iter().product::<i64>();
    let phase = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + seed as f64 * 78.233;
    let noise = phase.sin() * 43758.5453;
    ((&noise - noise.floor()) * 2.0 - 1.0).to_kind(Kind::Float).reshape(size)
}

// What every kind of ranks must do.

fn sums_and_their_gradients(ranks: &Ranks) {
    let (rank, size) = (ranks.rank() as f64, ranks.size() as f64);
    let base = numbers(&[3, 4], 1);
    // Strides differ between the ranks, elements do not.
    let x =
        if ranks.is_first() { &base * 1.0 } else { (base.transpose(0, 1).contiguous() * (rank + 1.0)).transpose(0, 1) };
    let x = x.detach().set_requires_grad(true);
    let y = ranks.sum(&x).unwrap();
    let all: f64 = (1..=ranks.size()).map(|r| r as f64).sum();
    assert_close("y = Σ x", &y, &(&base * all), 1e-6, 0.0);
    // L_r = (r + 1) Σ y²; dx = Σ_r 2 (r + 1) y.
    (y.square().sum(None::<Kind>) * (rank + 1.0)).backward();
    assert_close("dx = Σ dy", &x.grad(), &(&base * (2.0 * all * all)), 1e-6, 0.0);

    // Rows: rank r has r + 1 of them.
    let own = numbers(&[rank as i64 + 1, 2], 2).set_requires_grad(true);
    let rows = ranks.rows(rank as i64 + 1).unwrap();
    let gathered = ranks.gather(&rows, &own).unwrap();
    let expected: Vec<Tensor> = (0..ranks.size()).map(|r| numbers(&[r as i64 + 1, 2], 2)).collect();
    assert_close("rows", &gathered, &Tensor::cat(&expected, 0), 0.0, 0.0);
    ((gathered * numbers(&[rows.total, 2], 3)).sum(None::<Kind>) * (rank + 1.0)).backward();
    let expected = numbers(&[rows.total, 2], 3).narrow(0, rows.before, rows.own) * all;
    assert_close("gradient of rows", &own.grad(), &expected, 1e-6, 0.0);
    let ids = ranks.gather(&rows, &(Tensor::arange(rows.own, (Kind::Int64, Device::Cpu)) + (1i64 << 40))).unwrap();
    let expected: Vec<i64> = (0..ranks.size() as i64).flat_map(|r| (0..=r).map(|i| i + (1 << 40))).collect();
    assert_eq!(Vec::<i64>::try_from(ids).unwrap(), expected);

    assert_eq!(ranks.max(rank as i64 * 5).unwrap(), (size as i64 - 1) * 5);
    assert!(ranks.any(rank == size - 1.0).unwrap() && !ranks.any(false).unwrap());
    let mut values = [rank, if rank == 0.0 { f64::NAN } else { 1.0 }];
    ranks.mean(&mut values).unwrap();
    assert!(values[0] == (size - 1.0) / 2.0 && values[1].is_nan(), "{values:?}");
    ranks.agree("the answer", 42).unwrap();
    let message = ranks.agree("the rank", rank as i64).unwrap_err().to_string();
    assert!(message.contains("the rank") && message.contains("[0, 1"), "{message}");
    let shared = numbers(&[2, 3, 4, 4], 4 + rank as u64);
    let shared = shared.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    ranks.broadcast([&shared]).unwrap();
    assert_close("broadcast", &shared, &numbers(&[2, 3, 4, 4], 4), 0.0, 0.0);
    ranks.barrier().unwrap();
}

fn gradients_are_averaged(ranks: &Ranks) {
    let rank = ranks.rank() as f64;
    // More than one bucket, one larger than a bucket, channels innermost, none anywhere, one on the first rank alone.
    let sizes: [&[i64]; 6] = [&[5], &[3 << 20], &[9 << 20], &[4, 3, 3, 3], &[7], &[2, 2]];
    let params: Vec<Tensor> = sizes.iter().map(|size| Tensor::zeros(*size, CPU)).collect();
    let value = |i: usize| numbers(sizes[i], i as u64);
    let gradients: Vec<Tensor> = (0..sizes.len())
        .map(|i| match i {
            3 => (value(i) * (rank + 1.0)).permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]),
            4 => Tensor::new(),
            5 if !ranks.is_first() => Tensor::new(),
            _ => value(i) * (rank + 1.0),
        })
        .collect();
    let averaged = ranks.average(&params.iter().collect::<Vec<_>>(), gradients).unwrap();
    let size = ranks.size() as f64;
    for (i, gradient) in averaged.iter().enumerate() {
        match i {
            4 => assert!(!gradient.defined()),
            5 => assert_close("only on the first", gradient, &(value(i) / size), 1e-6, 0.0),
            _ => assert_close("mean", gradient, &(value(i) * ((size + 1.0) / 2.0)), 1e-6, 0.0),
        }
    }
    assert_eq!(averaged[3].stride(), [27, 1, 9, 3], "the memory layout is kept");
}

fn batch_norm_is_that_of_all_batches(ranks: &Ranks) {
    let (momentum, epsilon, channels) = (0.1, 1e-5, 5);
    for (shape, offset) in [(vec![6, 7], 3.0), (vec![], -3.0), (vec![9], 0.5)] {
        // Rank r has r + 4 of the batch.
        let counts: Vec<i64> = (0..ranks.size() as i64).map(|r| r + 4).collect();
        let total: i64 = counts.iter().sum();
        let before: i64 = counts[..ranks.rank()].iter().sum();
        let own = |t: &Tensor| t.narrow(0, before, counts[ranks.rank()]);
        let size: Vec<i64> = [total, channels].into_iter().chain(shape.iter().copied()).collect();
        let (whole, weight) = (numbers(&size, 1) * 2.0 + offset, numbers(&size, 2));
        let parameters = |kind: Kind| {
            let scale = (numbers(&[channels], 3) + 2.0).to_kind(kind).set_requires_grad(true);
            let bias = numbers(&[channels], 4).to_kind(kind).set_requires_grad(true);
            [
                scale,
                bias,
                (numbers(&[channels], 5) + offset).to_kind(kind),
                (numbers(&[channels], 6) + 2.0).to_kind(kind),
            ]
        };
        // L = Σ (weight · y)², of one process in float64.
        let x = own(&whole).copy().set_requires_grad(true);
        let whole = whole.to_kind(Kind::Double).set_requires_grad(true);
        let [scale, bias, mean, variance] = parameters(Kind::Double);
        let expected = whole
            .f_batch_norm(Some(&scale), Some(&bias), Some(&mean), Some(&variance), true, momentum, epsilon, false)
            .unwrap();
        (&expected * &weight).square().sum(None::<Kind>).backward();

        let [own_scale, own_bias, own_mean, own_variance] = parameters(Kind::Float);
        let norm = BatchNorm {
            scale: &own_scale,
            bias: &own_bias,
            running_mean: &own_mean,
            running_variance: &own_variance,
            momentum,
            epsilon,
        };
        let y = batch_norm(ranks, &x, &norm).unwrap();
        // The mean of the ranks' losses is L.
        let loss = (&y * own(&weight)).square().sum(None::<Kind>) * ranks.size() as f64;
        loss.backward();
        assert_close("output", &y, &own(&expected), 1e-5, 0.0);
        assert_close("input gradient", &(x.grad() / ranks.size() as f64), &own(&whole.grad()), 1e-5, 0.0);
        let gradients = ranks.average(&[&own_scale, &own_bias], vec![own_scale.grad(), own_bias.grad()]).unwrap();
        assert_close("gradient of the scale", &gradients[0], &scale.grad(), 1e-5, 0.0);
        assert_close("gradient of the bias", &gradients[1], &bias.grad(), 1e-5, 0.0);
        assert_close("running mean", &own_mean, &mean, 1e-5, 0.0);
        assert_close("running variance", &own_variance, &variance, 1e-5, 0.0);
    }
}

/// Everything that a training step computes before the optimiser moves the weights.
struct Step {
    terms: Vec<f64>,
    segments: i64,
    gradients: Vec<Tensor>,
    params: ParamStore,
}

impl Step {
    /// Of these images of a made-up global batch of `images`, without dropout (a mask belongs to a rank).
    fn new(settings: &TrainSettings, ranks: &Ranks, images: i64, own: &[i64]) -> Self {
        let specs = settings.network.params().unwrap();
        let params = ParamStore::new(&specs, &initial_weights(&specs, 3), "seed", Device::Cpu).unwrap();
        let graph = embedding_net::fcn(&settings.network, OutputStride::Train16).unwrap();
        let network = GraphModule::new(&graph, Device::Cpu).unwrap().over_ranks(ranks);
        let objective = ObjectiveModule::new(&settings.network, settings.objective(), Device::Cpu).unwrap();
        let objective = objective.over_ranks(ranks);

        let views = settings.batch.views as i64;
        let (crop, cells) = (settings.batch.crop as i64, settings.batch.crop as i64 / 16);
        let own_views: Vec<i64> = own.iter().flat_map(|image| image * views..(image + 1) * views).collect();
        let of_part = |t: &Tensor| t.index_select(0, &Tensor::from_slice(&own_views));
        // Smooth pictures, so that features differ between places and k-means has something to find.
        let coarse = numbers(&[images * views, 3, 8, 8], 1);
        let pictures = coarse.upsample_bilinear2d([crop, crop], false, None, None)
            + numbers(&[images * views, 3, crop, crop], 2) * 0.2;
        // Images have different numbers of regions; the first views of some are padded.
        let regions = (numbers(&[images * views, cells, cells], 3) * 0.5 + 0.5)
            * (Tensor::arange(images * views, CPU) + 2.0).reshape([-1, 1, 1]);
        let edges = regions.floor().to_kind(Kind::Int64);
        for view in (0..images * views).step_by(3) {
            let _ = edges.get(view).narrow(0, 0, 1 + view % 2).fill_(NO_REGION);
        }
        let (pictures, edges) = (of_part(&pictures), of_part(&edges));
        let image_of_view =
            Tensor::arange(edges.size()[0], (Kind::Int64, Device::Cpu)).divide_scalar_mode(views, "floor");
        let kept = edges.ne(NO_REGION);
        let given = Views {
            edge_segments: &edges,
            kept: &kept,
            kept_cells: None,
            room: None,
            image_of_view: &image_of_view,
            num_images: own.len() as i64,
        };
        let mode = Mode::Train { dropout: false };
        let mut outputs = network.run(&params, &[(embedding_net::IMAGE, &pictures)], mode).unwrap();
        let embeddings = outputs.take(embedding_net::EMBEDDING).unwrap();
        let out = objective.run(&params, &embeddings, &given, mode, &mut Profiler::default()).unwrap();
        let mut terms: Vec<f64> = [&out.total, &out.edge]
            .into_iter()
            .chain(&out.feature)
            .chain(&out.grouping)
            .map(|term| term.double_value(&[]))
            .collect();
        ranks.mean(&mut terms).unwrap();
        let learned: Vec<&Tensor> = params.learned().map(|(_, param)| param).collect();
        let gradients = Tensor::f_run_backward(&[&out.total], &learned, false, false).unwrap();
        let gradients = ranks.average(&learned, gradients).unwrap();
        Step { terms, segments: out.base.num_segments, gradients, params }
    }
}

fn a_step_is_that_of_one_process(ranks: &Ranks) {
    let text = tiny_settings(1).to_string();
    let mut settings: TrainSettings = toml::from_str(&text).unwrap();
    compare_steps(&settings, ranks);
    // Untrained decoders give all groups nearly the same content, and batch norm blows its rounding up: one process's
    // gradients move by 1e-3 when its images change places. Without the loss that comes from there they agree closely.
    settings.loss.grouping = 0.0;
    compare_steps(&settings, ranks);
}

fn compare_steps(settings: &TrainSettings, ranks: &Ranks) {
    let images = 2 * ranks.size() as i64;
    let all: Vec<i64> = (0..images).collect();
    let whole = Step::new(settings, &Ranks::alone(), images, &all);
    let part = ranks.part(images as usize).unwrap();
    let step = Step::new(settings, ranks, images, &all[part]);
    assert_eq!(ranks.rows(step.segments).unwrap().total, whole.segments, "segments");
    for (i, (got, expected)) in step.terms.iter().zip(&whole.terms).enumerate() {
        assert!((got - expected).abs() <= 1e-4 * expected.abs(), "loss term {i}: {got} instead of {expected}");
    }
    // What rounding makes of one process's gradients: the same images in another order.
    let reversed: Vec<i64> = all.iter().rev().copied().collect();
    let again = Step::new(settings, &Ranks::alone(), images, &reversed);
    let names: Vec<&str> = whole.params.learned().map(|(name, _)| name).collect();
    let largest = |t: &Tensor| t.abs().max().double_value(&[]);
    let is_exact = settings.loss.grouping == 0.0;
    // A bias before a batch norm has the gradient 0 and nothing but rounding in its place.
    let floor = 1e-6 * whole.gradients.iter().filter(|g| g.defined()).map(largest).fold(0.0, f64::max);
    let mut worst = (0f64, "");
    for (i, name) in names.iter().enumerate() {
        let (got, expected) = (&step.gradients[i], &whole.gradients[i]);
        assert_eq!(got.defined(), expected.defined(), "{name}");
        if !got.defined() {
            continue;
        }
        let (difference, scale) = (largest(&(got - expected)), largest(expected));
        let rounding = largest(&(&again.gradients[i] - expected));
        assert!(
            difference <= if is_exact { 1e-4 * scale } else { (2e-3 * scale).max(4.0 * rounding).max(floor) },
            "gradient of {name}: differs by {difference:.1e} of {scale:.1e}, rounding {rounding:.1e}"
        );
        if difference > worst.0 * scale && scale > 1e-3 {
            worst = (difference / scale, name);
        }
    }
    println!("rank {}: of the gradients {} differs most, by {:.1e}", ranks.rank(), worst.1, worst.0);
    for ((name, got), (_, expected)) in step.params.all().zip(whole.params.all()) {
        // Activations are about 1, also where their mean is not.
        let tolerance = if name.contains("transformer") { 1e-3 } else { 1e-5 };
        assert_close(name, got, expected, tolerance, 0.1);
    }
}

type Case = fn(&Ranks);

/// All of it, for ranks of any kind.
const CASES: [(&str, Case); 4] = [
    ("sums and their gradients", sums_and_their_gradients),
    ("gradients are averaged", gradients_are_averaged),
    ("batch norm", batch_norm_is_that_of_all_batches),
    ("a whole step", a_step_is_that_of_one_process),
];

#[test]
fn threads_sum_and_go_back() {
    threads::run(3, sums_and_their_gradients);
}

#[test]
fn threads_average_gradients() {
    threads::run(2, gradients_are_averaged);
}

#[test]
fn threads_normalise_together() {
    threads::run(1, batch_norm_is_that_of_all_batches);
    threads::run(3, batch_norm_is_that_of_all_batches);
}

#[test]
fn threads_make_the_step_of_one_process() {
    threads::run(2, a_step_is_that_of_one_process);
}

#[test]
fn a_thread_that_ends_stops_the_others() {
    let errors = threads::run(3, |ranks| match ranks.rank() {
        1 => String::new(),
        _ => ranks.barrier().unwrap_err().to_string(),
    });
    assert!(errors[0].contains("rank 1 is gone"), "{errors:?}");
    // Alone there is nothing to stop.
    assert!(threads::run(1, |ranks| ranks.is_alone())[0]);
}

/// Doubles, as if another rank had the same; writes down who calls.
struct Spy {
    callers: Arc<Mutex<Vec<ThreadId>>>,
    fails_at: usize,
    panics: bool,
}

impl Communicator for Spy {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        2
    }

    fn device(&self) -> Device {
        Device::Cpu
    }

    fn all_reduce_sum(&self, values: &Tensor) -> Result<()> {
        let mut callers = self.callers.lock().unwrap();
        callers.push(std::thread::current().id());
        if callers.len() == self.fails_at {
            drop(callers);
            assert!(!self.panics, "a communicator that panics");
            return Err(TrainError::Ranks { what: "the cable is cut".into(), remedy: "mend it".into() });
        }
        let _ = values.detach().multiply_scalar_(2.0);
        Ok(())
    }

    fn broadcast(&self, _: &Tensor, _: usize) -> Result<()> {
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn abort(&self) -> ! {
        panic!("aborted")
    }
}

#[test]
fn autograd_calls_back_in_the_thread_that_asked() {
    let callers = Arc::new(Mutex::new(Vec::new()));
    let spy = Arc::new(Spy { callers: Arc::clone(&callers), fails_at: 0, panics: false });
    let ranks = Ranks::of(Arc::clone(&spy) as Arc<dyn Communicator>);
    let x = numbers(&[4], 1).set_requires_grad(true);
    let y = ranks.sum(&ranks.sum(&x).unwrap()).unwrap();
    y.sum(None::<Kind>).backward();
    assert_close("dx", &x.grad(), &Tensor::full([4], 4.0, CPU), 0.0, 0.0);
    assert_eq!(*callers.lock().unwrap(), vec![std::thread::current().id(); 4], "on a CPU autograd has no other thread");
    // The graph is gone, and with it what held the communicator.
    drop((y, ranks));
    assert_eq!(Arc::strong_count(&spy), 1);
}

#[test]
fn a_failed_sum_is_an_error_in_both_directions() {
    for panics in [false, true] {
        let reason = if panics { "panic" } else { "the cable is cut" };
        for fails_at in [1, 2] {
            let ranks = Ranks::of(Arc::new(Spy { callers: Arc::default(), fails_at, panics }));
            let x = numbers(&[4], 1).set_requires_grad(true);
            let text = match ranks.sum(&x) {
                Err(error) => error.to_string(),
                Ok(y) => Tensor::f_run_backward(&[y.sum(None::<Kind>)], &[&x], false, false).unwrap_err().to_string(),
            };
            assert!(text.contains(reason), "{text}");
        }
    }
}

// Under mpirun.

/// mpirun, still without the number of ranks and the program; `None`, with a printed line, where it is missing.
fn mpirun(case: &str, folder: &Sandbox) -> Option<Command> {
    if cfg!(not(feature = "mpi")) {
        skip(case, "built without MPI; `cargo xtask deps mpi` says what to install, `cargo xtask test` then uses it");
        return None;
    }
    if Command::new("mpirun").arg("--version").output().is_err() {
        skip(case, "mpirun is not installed; `cargo xtask deps mpi`");
        return None;
    }
    let mut command = folder.command("mpirun");
    // Tests run as root in containers; two ranks on one core must not spin while they wait for each other.
    command.args(["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]);
    Some(command)
}

#[test]
fn mpi_does_what_threads_do() {
    let sandbox = Sandbox::new();
    let Some(mut command) = mpirun("ranks of mpirun", &sandbox) else { return };
    let this = std::env::current_exe().unwrap();
    command.args(["-n", "2"]).arg(this).args(["--exact", "as_a_rank_of_mpirun", "--nocapture", "--include-ignored"]);
    let output = Started::new(command).finish();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for (name, _) in CASES {
        for rank in 0..2 {
            assert!(text.contains(&format!("rank {rank} of 2: {name}: done")), "{name} on rank {rank}: {text}");
        }
    }
}

#[test]
#[ignore = "a part of mpi_does_what_threads_do"]
fn as_a_rank_of_mpirun() {
    tch::set_num_threads(1);
    let ranks = trainer::parallel::connect(Device::Cpu).unwrap();
    for (name, case) in CASES {
        case(&ranks);
        println!("rank {} of {}: {name}: done", ranks.rank(), ranks.size());
    }
}

struct Training {
    sandbox: Sandbox,
    root: String,
}

impl Training {
    fn new(steps: u32) -> Self {
        let sandbox = Sandbox::new();
        let root = street_dataset(sandbox.path("camvid"), "train", 3);
        std::fs::write(sandbox.path("tiny.toml"), tiny_settings(steps).to_string()).unwrap();
        // Made once: two ranks and several runs use them.
        let root = root.to_str().expect("a plain name").to_owned();
        let edges = ["edges", "--dataset", "camvid", "--split", "train", "--detector", "gradient", "--out", "edges"];
        sandbox.hsg_train().args(edges).args(["--root", &root]).assert().code(0);
        Training { sandbox, root }
    }

    fn arguments<'a>(&'a self, options: &[&'a str]) -> Vec<&'a str> {
        self.arguments_with_root(&self.root, options)
    }

    fn arguments_with_root<'a>(&self, root: &'a str, options: &[&'a str]) -> Vec<&'a str> {
        let fixed = ["train", "--config", "tiny.toml", "--edges", "edges", "--root", root];
        fixed.into_iter().chain(options.iter().copied()).collect()
    }

    fn run(&self, out: &str) -> Run {
        Run::new(self.sandbox.path(out))
    }
}

fn finished(command: Command) -> (Option<i32>, String) {
    let output = Started::new(command).finish();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn mpi_runs_go_on_with_another_number_of_ranks() {
    let training = Training::new(4);
    let Some(mut two) = mpirun("a run of two ranks", &training.sandbox) else { return };
    two.args(["-n", "2"]).arg(hsg_train()).args(training.arguments(&["--out", "two"]));
    let (code, text) = finished(two);
    assert_eq!(code, Some(0), "{text}");
    let run = training.run("two");
    assert_eq!((run.assert_whole(), run.metrics().len()), (4, 4), "{text}");

    // Dropout differs, so the first step's loss on edges, which comes before any, is compared.
    training.sandbox.hsg_train().args(training.arguments(&["--out", "one"])).assert().code(0);
    let edge = |run: &Run| run.metrics()[0]["loss_edge"].as_f64().unwrap();
    let (of_two, of_one) = (edge(&run), edge(&training.run("one")));
    assert!((of_two - of_one).abs() <= 1e-4 * of_one, "{of_two} instead of {of_one}");
    let segments = |run: &Run| run.metrics()[0]["segments"].as_i64().unwrap();
    assert_eq!(segments(&run), segments(&training.run("one")));

    let longer = ["--out", "two", "--resume", "--steps", "6"];
    training.sandbox.hsg_train().args(training.arguments(&longer)).assert().code(0);
    assert_eq!((run.assert_whole(), run.metrics().len()), (6, 6));
    let mut again = mpirun("a run of two ranks", &training.sandbox).unwrap();
    again.args(["-n", "2"]).arg(hsg_train()).args(training.arguments(&["--out", "two", "--resume", "--steps", "8"]));
    let (code, text) = finished(again);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((run.assert_whole(), run.metrics().len()), (8, 8));
    let state = tests::outputs::read_json(&run.last_checkpoint().join("state.json"));
    assert!(state["commands"][0].as_str().unwrap().starts_with("mpirun -n 2 hsg-train"), "{state}");
}

#[test]
fn mpi_refuses_images_that_cannot_be_shared_out() {
    let training = Training::new(4);
    let Some(mut command) = mpirun("odd batches", &training.sandbox) else { return };
    let mut settings = tiny_settings(4);
    settings["batch"]["images"] = 3.into();
    std::fs::write(training.sandbox.path("tiny.toml"), settings.to_string()).unwrap();
    command.args(["-n", "2"]).arg(hsg_train()).args(training.arguments(&["--out", "run"]));
    let (code, text) = finished(command);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("batch.images") && text.contains("1, 3 ranks") && text.contains("set it to 4"), "{text}");
    assert!(!training.sandbox.path("run").exists());
}

#[test]
fn mpi_error_of_one_rank_stops_all_with_its_reason() {
    let training = Training::new(4);
    let Some(mut command) = mpirun("an error of one rank", &training.sandbox) else { return };
    // One rank with the data, one without.
    command.args(["-n", "1"]).arg(hsg_train()).args(training.arguments(&["--out", "run"]));
    command.args([":", "-n", "1"]).arg(hsg_train()).args(training.arguments_with_root("nowhere", &["--out", "run"]));
    let (code, text) = finished(command);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("error: rank 1 of 2") && text.contains("nowhere"), "{text}");
}

#[test]
fn mpi_rank_that_is_killed_stops_all_and_checkpoints_are_whole() {
    let training = Training::new(100_000);
    let Some(mut command) = mpirun("a killed rank", &training.sandbox) else { return };
    let run = training.run("run");
    command.args(["-n", "2"]).arg(hsg_train()).args(training.arguments(&["--out", "run"]));
    let mut program = Started::new(command);
    program.wait_until("three steps", || run.num_lines() >= 3);
    let rank = rank_process(&training.sandbox.path(""), 1);
    let status = Command::new("kill").args(["-s", "KILL", &rank]).status().unwrap();
    assert!(status.success());
    let output = program.finish();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("signal 9"), "mpirun says which rank ended, and how: {text}");
    let steps = run.assert_whole();
    assert!(steps >= 2, "{steps}");
    // And it can go on.
    let more = (run.num_lines() + 1).to_string();
    training
        .sandbox
        .hsg_train()
        .args(training.arguments(&["--out", "run", "--resume", "--steps", &more]))
        .assert()
        .code(0);
}

/// The process of this rank that works in `folder`.
fn rank_process(folder: &Path, rank: usize) -> String {
    let folder = folder.canonicalize().unwrap();
    let wanted = format!("OMPI_COMM_WORLD_RANK={rank}");
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let here = std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == folder);
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if here && environment.split(|b| *b == 0).any(|variable| variable == wanted.as_bytes()) {
            return entry.file_name().to_string_lossy().into_owned();
        }
    }
    panic!("no process of rank {rank} in {}", folder.display());
}
