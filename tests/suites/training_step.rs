//! Parts of a training step against slower forms of themselves.

use proptest::prelude::*;
use tch::{Kind, Tensor};
use tests::torch::device;
use tests::training::tiny_settings;
use trainer::device::Compute;
use trainer::graph_module::Mode;
use trainer::losses::image_blocks::ImageBlocks;
use trainer::losses::pixel_segment::{Grouping, PixelSegmentSpec, PositiveSum, pixel_segment_losses};
use trainer::losses::unit;
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
            image_of_pixel: &image_of_pixel,
            image_of_segment: &image_of_segment,
            num_images,
            first_segment: num_foreign,
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
