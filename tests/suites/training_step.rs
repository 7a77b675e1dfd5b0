//! Parts of a training step against slower forms of themselves.

use proptest::prelude::*;
use tch::{Kind, Tensor};
use tests::operators;
use tests::torch::device;
use tests::training::tiny_settings;
use trainer::base_segments::{NO_REGION, Room, TokenSets};
use trainer::checkpoint::{Checkpoint, State};
use trainer::device::{Compute, Form};
use trainer::graph_module::Mode;
use trainer::loader::Batch;
use trainer::losses::image_blocks::ImageBlocks;
use trainer::losses::pixel_segment::{Grouping, PixelSegmentSpec, PositiveSum, pixel_segment_losses};
use trainer::losses::unit;
use trainer::objective::Objective;
use trainer::parallel::Ranks;
use trainer::profile::Profiler;
use trainer::settings::TrainSettings;
use trainer::trainer::Trainer;

const CONCENTRATION: f64 = 16.0;

/// libtorch's generator, which all threads share: seeded, and nobody else's until the guard goes.
fn seeded(seed: i64) -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    // A test that failed leaves nothing behind that the next one would read.
    let guard = GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    tch::manual_seed(seed);
    guard
}

/// Eq. 3 as it stands, with autograd's gradient: the weighted sum over the groupings.
fn plain_losses(pixels: &Tensor, segments: &Tensor, own: &Tensor, groupings: &[(Tensor, f64)]) -> Tensor {
    let similarity = (pixels.matmul(&segments.transpose(0, 1)) * CONCENTRATION).exp();
    let num_segments = segments.size()[0];
    let is_own = own.unsqueeze(1).eq_tensor(&Tensor::arange(num_segments, (Kind::Int64, device())).unsqueeze(0));
    let mut total = Tensor::zeros([1], (Kind::Double, device()));
    for (group, weight) in groupings {
        let same = group.index_select(0, own).unsqueeze(1).eq_tensor(&group.unsqueeze(0));
        let others = same.logical_and(&is_own.logical_not());
        let alone = others.any_dim(1, true).logical_not();
        let positive = others.logical_or(&is_own.logical_and(&alone));
        let sum = |mask: &Tensor| {
            (&similarity * mask.to_kind(Kind::Double)).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>)
        };
        let (positives, negatives) = (sum(&positive), sum(&same.logical_not()));
        total += ((&positives + negatives) / positives).log().mean(None::<Kind>) * *weight;
    }
    total.sum(None::<Kind>)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    /// Whatever the chunks, the loss and its gradients are those of the formula.
    #[test]
    fn the_pixel_segment_loss_is_eq_3(
        seed in 0i64..1 << 40,
        num_pixels in 1i64..300,
        num_segments in 1i64..40,
        num_groups in 1i64..12,
        chunk_bytes in prop::sample::select(vec![1usize, 5_000, 1 << 30]),
    ) {
        let _generator = seeded(seed);
        let leaf = |rows| Tensor::randn([rows, 16], (Kind::Double, device())).set_requires_grad(true);
        let (pixels, segments) = (leaf(num_pixels), leaf(num_segments));
        let ids = |high, n| Tensor::randint(high, [n], (Kind::Int64, device()));
        let own = ids(num_segments, num_pixels);
        let groups = [(ids(num_groups, num_segments), 1.0), (ids(3, num_segments), 0.1), (ids(2, num_segments), 0.0)];
        let gradients = |loss: &Tensor| Tensor::run_backward(&[loss], &[&pixels, &segments], false, false);

        let expected = plain_losses(&unit(&pixels, 1), &unit(&segments, 1), &own, &groups);
        let expected_gradients = gradients(&expected);
        let groupings = groups.each_ref().map(|(group_of_segment, weight)| Grouping { group_of_segment, weight: *weight });
        let spec = PixelSegmentSpec {
            concentration: CONCENTRATION,
            sum: PositiveSum::Direct,
            num_pixels: num_pixels as f64,
            chunk_bytes,
        };
        let got = pixel_segment_losses(&unit(&pixels, 1), &unit(&segments, 1), &own, &groupings, &spec, None);
        let value = |t: &Tensor| t.double_value(&[]);
        prop_assert!((value(&got.total) - value(&expected)).abs() < 1e-9 * value(&expected).abs().max(1.0));
        let terms: f64 = got.terms.iter().map(value).sum();
        prop_assert!((terms - value(&expected)).abs() < 1e-9 * terms.abs().max(1.0));
        for (got, expected) in gradients(&got.total).iter().zip(&expected_gradients) {
            let difference = value(&(got - expected).abs().max());
            prop_assert!(difference < 1e-9 * value(&expected.abs().max()).max(1e-3), "{difference}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    /// By blocks of images the loss and its gradients are what they are over all segments, with the segments of another
    /// rank in front and images without a pixel among them.
    #[test]
    fn blocks_of_images_change_nothing(
        seed in 0i64..1 << 40,
        num_images in 1i64..5,
        num_pixels in 1i64..300,
        num_segments in 1i64..40,
        num_groups in 1i64..6,
        num_foreign in 0i64..10,
        chunk_bytes in prop::sample::select(vec![1usize, 5_000, 1 << 30]),
    ) {
        let device = device();
        let _generator = seeded(seed);
        let leaf = |rows| Tensor::randn([rows, 16], (Kind::Double, device)).set_requires_grad(true);
        let (pixels, segments) = (leaf(num_pixels), leaf(num_foreign + num_segments));
        let ids = |high, n| Tensor::randint(high, [n], (Kind::Int64, device));
        let image_of_segment = ids(num_images, num_segments).sort(0, false).0;
        let local = ids(num_segments, num_pixels).sort(0, false).0;
        let image_of_pixel = image_of_segment.index_select(0, &local);
        let own = local + num_foreign;
        // Groups of this rank's images, and one of the other's.
        let groups = |count| {
            let here = &image_of_segment * 100 + ids(count, num_segments);
            Tensor::cat(&[Tensor::full([num_foreign], -1, (Kind::Int64, device)), here], 0)
        };
        let groups = [(groups(num_groups), 1.0), (groups(3), 0.1), (groups(2), 0.0)];
        let groupings = groups.each_ref().map(|(group_of_segment, weight)| Grouping { group_of_segment, weight: *weight });
        let spec = PixelSegmentSpec {
            concentration: CONCENTRATION,
            sum: PositiveSum::Direct,
            num_pixels: num_pixels as f64,
            chunk_bytes,
        };
        let blocks = ImageBlocks {
            pixels: &TokenSets::new(&image_of_pixel, num_images),
            segments: &TokenSets::new(&image_of_segment, num_images),
            first_segment: num_foreign,
            present: None,
        };
        let run = |blocks| {
            let losses = pixel_segment_losses(&unit(&pixels, 1), &unit(&segments, 1), &own, &groupings, &spec, blocks);
            let gradients = Tensor::run_backward(&[&losses.total], &[&pixels, &segments], false, false);
            (losses, gradients)
        };
        let ((expected, expected_gradients), (got, gradients)) = (run(None), run(Some(&blocks)));
        let value = |t: &Tensor| t.double_value(&[]);
        for (got, expected) in got.terms.iter().zip(&expected.terms) {
            prop_assert!((value(got) - value(expected)).abs() < 1e-9 * value(expected).abs().max(1.0));
        }
        prop_assert!(got.per_pixel[2].numel() == 0 && expected.per_pixel[2].numel() == 0);
        for (got, expected) in gradients.iter().zip(&expected_gradients) {
            let difference = value(&(got - expected).abs().max());
            prop_assert!(difference < 1e-9 * value(&expected.abs().max()).max(1e-3), "{difference}");
        }
    }
}

fn settings() -> TrainSettings {
    let text = tiny_settings(3).to_string();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tiny.toml"), text).unwrap();
    TrainSettings::read(&folder.path().join("tiny.toml")).unwrap()
}

/// In bf16 the features point where they do in fp32, and come back as 32-bit floats.
#[test]
fn half_precision_changes_little() {
    let device = device();
    let _generator = seeded(3);
    let images = Tensor::randn([4, 3, 64, 64], (Kind::Float, device));
    let forward = |precision| {
        let trainer = Trainer::new(&settings(), Compute { device, precision }).unwrap();
        trainer.forward(&images, Mode::Evaluate).unwrap()
    };
    let (full, half) = (forward(Kind::Float), forward(Kind::BFloat16));
    assert_eq!(half.kind(), Kind::Float);
    let cosine = (unit(&full, 1) * unit(&half, 1)).sum_dim_intlist([1i64].as_slice(), false, None::<Kind>);
    let worst = cosine.min().double_value(&[]);
    assert!(worst > 0.99, "{worst}");
    assert!(!full.equal(&half), "nothing was rounded");
}

/// A tenth of the values is dropped, the others are scaled so that the mean stays; without dropout nothing changes.
#[test]
fn dropout_drops_a_tenth() {
    use models::graph::{Graph, Op};
    use trainer::graph_module::{GraphModule, ParamStore};
    let mut graph = Graph::new("dropout");
    let dims = ["batch".into(), "channels".into(), "tokens".into()];
    let input = graph.input("x", &dims);
    let output = graph.push("y", Op::Dropout { ratio: 0.1 }, &[&input]);
    graph.output("y", &output, &dims);
    let module = GraphModule::new(&graph, device()).unwrap();
    let params = ParamStore::new(&[], &Default::default(), "nothing", device()).unwrap();
    let run = |x: &Tensor, dropout| {
        let _generator = seeded(5);
        module.run(&params, &[("x", x)], Mode::Train { dropout }).unwrap().take("y").unwrap()
    };
    let x = Tensor::ones([20, 50, 100], (Kind::Float, device()));
    let dropped = run(&x, true).eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    // 100 000 draws: four standard deviations.
    assert!((dropped - 0.1).abs() < 0.004, "{dropped}");
    let kept = run(&x, true).max().double_value(&[]);
    assert!((kept - 1.0 / 0.9).abs() < 1e-6, "{kept}");
    assert!(run(&x, false).equal(&x));
    // Tokens that lie channels-innermost in memory, and a second draw, which must be another.
    let strided = x.transpose(1, 2).contiguous().transpose(1, 2);
    assert!(!strided.is_contiguous());
    let first = run(&strided, true);
    assert!(first.equal(&run(&strided, true)), "the same seed gives the same mask");
    let share = first.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((share - 0.1).abs() < 0.004, "{share}");
}

/// Parameters that are updated together move as they would one by one; those without a gradient stay.
#[test]
fn an_update_of_all_is_one_of_each_parameter() {
    use trainer::graph_module::ParamStore;
    use trainer::optimiser::Sgd;
    let specs = settings().network.params().unwrap();
    let weights = models::params::initial_weights(&specs, 7);
    let store = || ParamStore::new(&specs, &weights, "initial weights", device()).unwrap();
    let (together, apart) = (store(), store());
    let (mut all, mut each) = (Sgd::new(0.9, 1e-4, 10.0), Sgd::new(0.9, 1e-4, 10.0));
    let _generator = seeded(11);
    for step in 0..3 {
        // Rows first in memory, as gradients of products come, and channels first, as those of convolutions may.
        let gradients: Vec<Tensor> =
            together.learned().map(|(_, param)| Tensor::randn(param.size(), (Kind::Float, device()))).collect();
        let rate = 0.1 / f64::from(step + 1);
        all.step(&together, &gradients, rate).unwrap();
        // Two halves, each without the other's gradients.
        for half in 0..2 {
            let of_half = |(i, gradient): (usize, &Tensor)| {
                if i % 2 == half { gradient.shallow_clone() } else { Tensor::new() }
            };
            let gradients: Vec<Tensor> = gradients.iter().enumerate().map(of_half).collect();
            each.step(&apart, &gradients, rate).unwrap();
        }
    }
    for ((name, a), (_, b)) in together.learned().zip(apart.learned()) {
        assert!(a.equal(b), "{name} differs");
    }
    let before = store();
    assert!(together.learned().zip(before.learned()).all(|((_, a), (_, b))| !a.equal(b)), "a parameter did not move");
    assert_eq!(all.state().unwrap(), each.state().unwrap());
}

/// Nodes that are run as one operator give what they give one by one, and the same gradients; in every transformer all
/// linear layers and attentions are such.
#[test]
fn composites_are_their_nodes() {
    use models::arch::clustering_transformer::{self, names};
    use trainer::composites::{Composite, Composites};
    use trainer::graph_module::{GraphModule, ParamStore};
    let (spec, device) = (settings().network, device());
    let _generator = seeded(13);
    for level in 0..spec.groups.len() {
        let graph = clustering_transformer::training(&spec, level).unwrap();
        let found = Composites::find(&graph);
        let count = |wanted: fn(&Composite) -> bool| found.at.values().filter(|(found, _)| wanted(found)).count();
        // Two encoder layers with an attention each, two decoder layers with two.
        assert_eq!(count(|found| matches!(found, Composite::Attention { .. })), 6);
        // Four projections of each attention, two layers of each feed-forward part, two of the statistics, two heads.
        assert_eq!(count(|found| *found == Composite::Linear), 6 * 4 + 4 * 2 + 2 + 2);
        let weights = models::params::initial_weights(&graph.params, 5);
        let options = (Kind::Float, device);
        let (batch, dim) = (3, spec.embedding_dim as i64);
        let tokens = if level == 0 { 23 } else { spec.groups[level - 1] as i64 };
        let positions = Tensor::randn([batch, dim, tokens], options);
        let values = Tensor::randn([batch, dim, tokens], options);
        let valid = Tensor::ones([batch, tokens], options);
        let _ = valid.narrow(0, 1, 1).narrow(1, tokens - 3, 3).fill_(0.0);
        let run = |composites: Composites, values: &Tensor| {
            let module = GraphModule::with_composites(&graph, composites, device).unwrap();
            let params = ParamStore::new(&graph.params, &weights, "initial weights", device).unwrap();
            let features = values.copy().set_requires_grad(true);
            let mut inputs = vec![(names::FEATURES, &features), (names::POSITIONS, &positions)];
            if level == 0 {
                inputs.push((names::VALID, &valid));
            }
            let mut out = module.run(&params, &inputs, Mode::Train { dropout: false }).unwrap();
            let (logits, centroids) = (out.take(names::LOGITS).unwrap(), out.take(names::CENTROIDS).unwrap());
            (logits.softmax(1, None::<Kind>).square().sum(None::<Kind>) + centroids.square().sum(None::<Kind>))
                .backward();
            let gradients: Vec<Tensor> = params.learned().map(|(_, param)| param.grad()).collect();
            (vec![logits, centroids, features.grad()], gradients)
        };
        let (apart, apart_gradients) = run(Composites::default(), &values);
        // Rounding is carried on through layers of normalisation, more with some inputs than with others: how much more is
        // seen by changing the input in its last digits.
        let near = &values * (Tensor::randn(values.size(), options) * 1e-6 + 1.0);
        let (of_near, gradients_of_near) = run(Composites::default(), &near);
        let (together, gradients) = run(found, &values);
        let size_of = |x: &Tensor| x.norm().double_value(&[]);
        let largest = apart_gradients.iter().filter(|x| x.defined()).map(size_of).fold(0.0, f64::max);
        let all = |of: Vec<Tensor>, gradients: Vec<Tensor>| of.into_iter().chain(gradients);
        let (apart, near, together) =
            (all(apart, apart_gradients), all(of_near, gradients_of_near), all(together, gradients));
        let (mut difference, mut sensitivity) = (0.0f64, 0.0f64);
        for ((a, near), b) in apart.zip(near).zip(together) {
            assert_eq!(a.defined(), b.defined());
            if a.defined() {
                // The bias of keys has no gradient but rounding.
                let scale = size_of(&a).max(0.01 * largest);
                difference = difference.max(size_of(&(&a - &b)) / scale);
                sensitivity = sensitivity.max(size_of(&(&a - &near)) / scale);
            }
        }
        // Over 200 seeds the difference was at most 2.1 × the sensitivity, and both below 2 %.
        assert!(difference <= 1e-4 + 10.0 * sensitivity, "differ by {difference}, sensitivity {sensitivity}");
        assert!(difference < 0.02, "differ by {difference}");
    }
}

/// Settings with views of 10 × 10 cells.
fn larger_settings() -> TrainSettings {
    let mut settings = settings();
    settings.batch.crop = 160;
    settings.batch.images = 3;
    // Nothing that a step does shows in the next one.
    settings.optimiser.learning_rate = 1e-20;
    settings
}

/// A made-up batch whose views have up to `regions` edge segments, some of them padded.
fn made_up(settings: &TrainSettings, step: usize, regions: f64) -> Batch {
    const CPU: (Kind, tch::Device) = (Kind::Float, tch::Device::Cpu);
    let (images, crop) = (settings.batch.images, settings.batch.crop as i64);
    let views = (images * settings.batch.views) as i64;
    let cells = crop / 16;
    // Smooth, so that k-means has something to find.
    let pictures = Tensor::randn([views, 3, 6, 6], CPU).upsample_bilinear2d([crop, crop], false, None, None);
    let pictures = pictures + Tensor::randn([views, 3, crop, crop], CPU) * 0.2;
    let ids = Tensor::rand([views, cells, cells], CPU) * (regions / views as f64);
    let edges = (ids * (Tensor::arange(views, CPU) + 1.0).reshape([-1, 1, 1])).floor().to_kind(Kind::Int64);
    for view in (1..views).step_by(3) {
        let _ = edges.get(view).narrow(0, cells - 3, 3).fill_(NO_REGION);
    }
    Batch {
        step,
        pixels: Vec::<f32>::try_from(pictures.permute([0, 2, 3, 1]).contiguous().view([-1])).unwrap(),
        edges: Vec::<i64>::try_from(edges.view([-1])).unwrap(),
        samples: (0..images).collect(),
        pinned: None,
    }
}

fn in_form(settings: &TrainSettings, form: Form) -> Trainer {
    let compute = Compute { device: device(), precision: Kind::Float };
    Trainer::in_form(settings, compute, &Ranks::alone(), form).unwrap()
}

/// The objective of a batch without dropout, and the gradients of all parameters.
fn objective(trainer: &Trainer, batch: &Batch, room: Option<Room>) -> (Objective, Vec<Tensor>) {
    let mode = Mode::Train { dropout: false };
    let embeddings = trainer.forward(&trainer.images(batch).unwrap(), mode).unwrap();
    let cells = trainer.cells_of(batch).unwrap();
    let out = trainer.objective(&embeddings, &cells, room, mode, &mut Profiler::default()).unwrap();
    let learned: Vec<&Tensor> = trainer.params.learned().map(|(_, param)| param).collect();
    let gradients = Tensor::run_backward(&[&out.total], &learned, false, false);
    (out, gradients)
}

/// The form for GPUs computes what the form for CPUs does, and room for more segments than there are changes nothing:
/// neither loss nor gradient nor running statistics.
#[test]
fn forms_and_room_change_nothing() {
    let _generator = seeded(17);
    let number = |t: &Tensor| t.double_value(&[]);
    for neighbours_across in [None, Some(2)] {
        let mut settings = larger_settings();
        settings.loss.neighbours_across = neighbours_across;
        // Untrained decoders give all groups nearly the same content, and normalisation blows its rounding up.
        settings.loss.grouping = 0.0;
        let batch = made_up(&settings, 0, 20.0);
        let host = in_form(&settings, Form::Host);
        let (expected, expected_gradients) = objective(&host, &batch, None);
        let needed = Room { segments: expected.base.num_segments, tokens: expected.valid.size()[1] };
        assert!(expected.used.is_none());
        let rooms = [
            None,
            Some(needed),
            Some(Room { segments: needed.segments + 1, tokens: needed.tokens + 1 }),
            Some(Room { segments: needed.segments + 200, tokens: 3 * needed.tokens }),
        ];
        for room in rooms {
            let trainer = in_form(&settings, Form::Device);
            let (got, gradients) = objective(&trainer, &batch, room);
            let close = |name: &str, got: f64, expected: f64, tolerance: f64| {
                let allowed = tolerance * expected.abs().max(1e-3);
                assert!((got - expected).abs() <= allowed, "{name}, room {room:?}: {got} instead of {expected}");
            };
            close("loss", number(&got.total), number(&expected.total), 1e-5);
            close("edges", number(&got.edge), number(&expected.edge), 1e-5);
            for (got, expected) in got.feature.iter().zip(&expected.feature) {
                close("features", number(got), number(expected), 1e-4);
            }
            if let Some(used) = &got.used {
                let used = Vec::<i64>::try_from(used).unwrap();
                assert_eq!(used, [needed.segments, needed.tokens]);
            }
            let tokens = needed.tokens;
            assert!(got.valid.narrow(1, 0, tokens).equal(&expected.valid));
            assert!(number(&got.valid.sum(Kind::Float)) == number(&expected.valid.sum(Kind::Float)));
            assert!((got.tokens.narrow(2, 0, tokens) - &expected.tokens).abs().max().double_value(&[]) < 1e-6);
            let largest = |t: &Tensor| t.abs().max().double_value(&[]);
            let floor = 1e-3 * expected_gradients.iter().filter(|g| g.defined()).map(largest).fold(0.0, f64::max);
            for ((name, _), (got, expected)) in trainer.params.learned().zip(gradients.iter().zip(&expected_gradients))
            {
                assert_eq!(got.defined(), expected.defined(), "{name}");
                if got.defined() {
                    let (difference, size) = (largest(&(got - expected)), largest(expected).max(floor));
                    assert!(difference < 2e-3 * size, "{name}, room {room:?}: {difference} of {size}");
                }
            }
            let difference = largest(&(trainer.params.statistics() - host.params.statistics()));
            assert!(difference < 1e-5, "running statistics, room {room:?}: {difference}");
        }
    }
}

/// The terms of grouping do not depend on the room either, whichever neighbours segments have; nor do they turn into
/// something else in the other form.
#[test]
fn goodness_of_grouping_does_not_depend_on_the_room() {
    let _generator = seeded(37);
    for neighbours_across in [None, Some(2)] {
        let mut settings = larger_settings();
        settings.loss.grouping = 1.0;
        settings.loss.neighbours_across = neighbours_across;
        let batch = made_up(&settings, 0, 20.0);
        let (expected, _) = objective(&in_form(&settings, Form::Host), &batch, None);
        let needed = Room { segments: expected.base.num_segments, tokens: expected.valid.size()[1] };
        let room = Room { segments: needed.segments + 100, tokens: 2 * needed.tokens };
        let (got, _) = objective(&in_form(&settings, Form::Device), &batch, Some(room));
        assert!(got.used.is_some());
        for (level, (got, expected)) in got.grouping.iter().zip(&expected.grouping).enumerate() {
            let (got, expected) = (got.double_value(&[]), expected.double_value(&[]));
            // Spare tokens that counted would halve the collapse term, which is a tenth of the sum or more.
            assert!((got - expected).abs() < 5e-3 * expected.abs(), "level {level}: {got} instead of {expected}");
        }
    }
}

/// In the form for GPUs a step reads nothing back before it has asked for everything, once it knows how much room to give.
#[test]
fn a_step_reads_nothing_back() {
    let _generator = seeded(19);
    let settings = larger_settings();
    let mut trainer = in_form(&settings, Form::Device);
    let mut operators = |step| {
        let batch = made_up(&settings, step, 20.0);
        let (report, counts) = operators::count(|| trainer.step(&batch, &mut Profiler::default()));
        report.unwrap();
        counts
    };
    let (first, second) = (operators(0), operators(1));
    assert!(operators::reading(&first).contains_key("aten::_unique2"), "{:?}", operators::reading(&first));
    assert_eq!(operators::reading(&second), operators::Counts::new());
}

/// Prints how many operators each stage of a step starts on a GPU (`-- --nocapture`; docs/benchmarks/gpu.md): hardly any of
/// it depends on sizes. On a CPU an attention with dropout is about ten operators instead of one.
#[test]
fn operators_of_a_step() {
    let _generator = seeded(31);
    let mut settings = larger_settings();
    settings.kmeans.rounds = 15;
    let mut trainer = in_form(&settings, Form::Device);
    let batch = made_up(&settings, 0, 20.0);
    trainer.step(&batch, &mut Profiler::default()).unwrap();
    let counter = operators::Counter::new();
    let mut stages = Vec::new();
    let mut profiler = Profiler::observed(|stage| stages.push((stage, counter.take())));
    trainer.step(&batch, &mut profiler).unwrap();
    drop(profiler);
    let sum = |counts: &operators::Counts| counts.values().sum::<u64>();
    println!("operators of a step: {}", stages.iter().map(|(_, counts)| sum(counts)).sum::<u64>());
    for (stage, counts) in &stages {
        let mut most: Vec<(&String, &u64)> = counts.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let name = |name: &str| name.trim_start_matches("aten::").to_owned();
        let most: Vec<String> = most.iter().map(|(full, count)| format!("{} {count}", name(full))).collect();
        println!("{:<12} {:>5}: {}", stage.name(), sum(counts), most.join(", "));
    }
    assert!(stages.iter().all(|(_, counts)| sum(counts) > 0));
}

/// A step whose segments turn out to be more than there is room for is made again, and nothing of the first attempt is
/// left.
#[test]
fn a_step_with_too_little_room_is_made_again() {
    let _generator = seeded(23);
    let settings = larger_settings();
    let few = made_up(&settings, 0, 1.0);
    let many = made_up(&settings, 1, 60.0);
    let run = |form| {
        let mut trainer = in_form(&settings, form);
        let reports = [&few, &many].map(|batch| trainer.step(batch, &mut Profiler::default()).unwrap());
        (trainer, reports)
    };
    let (host, expected) = run(Form::Host);
    let (device, got) = run(Form::Device);
    assert!(expected[1].num_segments > 2 * expected[0].num_segments, "there would have been enough room");
    for (got, expected) in got.iter().zip(&expected) {
        assert_eq!(got.num_segments, expected.num_segments);
        // Dropout has other masks in the other form, but the edges' term does not depend on it.
        assert!((got.edge - expected.edge).abs() < 1e-5 * expected.edge, "{got:?} instead of {expected:?}");
    }
    for ((name, got), (_, expected)) in device.params.all().zip(host.params.all()) {
        if name.starts_with("resnet_backbone.") && name.ends_with("running_mean") {
            let difference = (got - expected).abs().max().double_value(&[]);
            assert!(difference < 1e-5, "{name}: {difference}");
        }
    }
}

/// The second attempt is what a first one with as much room would have been: parameters, momentum and running statistics
/// are the same to the last bit.
#[test]
fn a_second_attempt_is_a_first_one() {
    let _generator = seeded(41);
    let mut settings = larger_settings();
    settings.optimiser.learning_rate = 0.01;
    let (few, many) = (made_up(&settings, 0, 1.0), made_up(&settings, 1, 60.0));
    let mut again = in_form(&settings, Form::Device);
    again.step(&few, &mut Profiler::default()).unwrap();
    let mut before = Checkpoint {
        folder: "checkpoint".into(),
        weights: again.params.to_weights().unwrap(),
        momentum: again.momentum().unwrap(),
        state: State::initial(1, 2, String::new()),
    };
    again.step(&many, &mut Profiler::default()).unwrap();
    let needed = again.room_needed();
    // One entry of the first step, two or more of the second's attempts: the first of them may know too few tokens.
    assert!(needed.len() >= 3, "the step was not made again: {needed:?}");
    let mut first = in_form(&settings, Form::Device);
    before.state.room = needed[..needed.len() - 1].to_vec();
    first.restore(&before).unwrap();
    first.step(&many, &mut Profiler::default()).unwrap();
    assert_eq!(first.room_needed().len(), needed.len(), "one attempt");
    if device() == tch::Device::Cpu {
        for ((name, a), (_, b)) in again.params.all().zip(first.params.all()) {
            assert!(a.equal(b), "{name} differs");
        }
        assert_eq!(again.momentum().unwrap(), first.momentum().unwrap());
    }
}

/// A loss that is no number changes no parameter in either form, though in the one the update has been asked for before
/// the loss is known.
#[test]
fn a_loss_that_is_no_number_updates_nothing() {
    let _generator = seeded(29);
    let mut settings = larger_settings();
    settings.optimiser.learning_rate = 0.1;
    for form in [Form::Host, Form::Device] {
        let mut trainer = in_form(&settings, form);
        let good = made_up(&settings, 0, 20.0);
        trainer.step(&good, &mut Profiler::default()).unwrap();
        let moved = Trainer::new(&settings, trainer.compute()).unwrap();
        assert!(!trainer.params.flat().equal(moved.params.flat()), "the good step moved something");
        let before = trainer.params.flat().copy();
        let mut bad = made_up(&settings, 1, 20.0);
        bad.pixels[1000] = f32::NAN;
        let error = trainer.step(&bad, &mut Profiler::default()).unwrap_err();
        assert!(error.to_string().contains("step 2"), "{error}");
        assert!(trainer.params.flat().equal(&before), "{form:?}: a parameter moved");
    }
}
