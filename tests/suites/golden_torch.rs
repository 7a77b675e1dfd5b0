//! The trainer against the numbers of the authors' implementation (`golden/hsg/README.md`), one test per file.
//!
//! Every number comes from the folder, so other seeds of the same layout must pass too: `HSG_GOLDEN` names another
//! folder. Stated constants of its README: levels 5 and 3, k-means 3×3 × 10, 4 neighbours, λ 1 / 0.1 / 0.2 in
//! `training_step`; 2 and 4 neighbours in `goodness_of_grouping_knn*`.

use std::collections::BTreeMap;

use models::arch::clustering_transformer::{self, names};
use models::arch::{Backbone, NetworkSpec, OutputStride, embedding_net};
use models::weights::{Tensor as PlainTensor, Weights};
use safetensors::tensor::{Dtype, SafeTensors};
use segcore::spherical_kmeans::KmeansSpec;
use tch::{Device, Kind, Tensor};
use tests::folders;
use tests::torch::device;
use trainer::base_segments::{self, BaseSegments, KeptCells, NO_REGION, Room};
use trainer::device::Form;
use trainer::graph_module::{GraphModule, Mode, ParamStore};
use trainer::losses::goodness_of_grouping::{Neighbours, collapse, modularity, neighbour_graph};
use trainer::losses::pixel_segment::{Grouping, PixelSegmentSpec, PositiveSum, pixel_segment_losses};
use trainer::losses::unit;
use trainer::objective::{Objective, ObjectiveModule, ObjectiveSettings, Views};
use trainer::profile::Profiler;
use trainer::schedule::{Decay, learning_rate};

const TOLERANCE: f64 = 1e-4;
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// The tensors of one golden file.
struct Golden(BTreeMap<String, Tensor>);

impl Golden {
    /// Opens `hsg/<name>.safetensors`; `None`, with a printed line, where it is absent.
    fn open(name: &str) -> Option<Self> {
        Self::open_on(name, device())
    }

    /// The same with its tensors on `device`.
    fn open_on(name: &str, device: Device) -> Option<Self> {
        let path = folders::golden(&format!("hsg/{name}.safetensors"))?;
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let kind = match view.dtype() {
                Dtype::F32 => Kind::Float,
                Dtype::I64 => Kind::Int64,
                Dtype::U8 => Kind::Uint8,
                other => panic!("{}: {name} has the unexpected type {other:?}", path.display()),
            };
            let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
            tensors.insert(name.to_owned(), Tensor::from_data_size(view.data(), &shape, kind).to_device(device));
        }
        Some(Golden(tensors))
    }

    fn get(&self, name: &str) -> &Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// A copy that records gradients.
    fn leaf(&self, name: &str) -> Tensor {
        self.get(name).copy().set_requires_grad(true)
    }

    /// Grid and rounds of a k-means file.
    fn kmeans_spec(&self) -> KmeansSpec {
        let grid = self.get("grid");
        KmeansSpec {
            grid_rows: grid.int64_value(&[0]) as usize,
            grid_columns: grid.int64_value(&[1]) as usize,
            rounds: self.get("iterations").int64_value(&[0]) as usize,
        }
    }

    /// The floating-point tensors under `prefix`, without it.
    fn weights(&self, prefix: &str) -> Weights {
        let floats = self.0.iter().filter(|(_, t)| t.kind() == Kind::Float);
        floats.filter_map(|(name, t)| name.strip_prefix(prefix).map(|n| (n.to_owned(), plain(t)))).collect()
    }
}

fn plain(t: &Tensor) -> PlainTensor {
    trainer::graph_module::to_plain(t).unwrap()
}

/// |got − expected| ≤ tolerance · max|expected| over the tensor.
#[track_caller]
fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.size(), expected.size(), "{what}: shape");
    let scale = expected.abs().max().double_value(&[]);
    let difference = (got.detach() - expected).abs().max().double_value(&[]);
    println!("{what}: largest difference {difference:.3e} of {scale:.3e}");
    assert!(difference <= tolerance * scale, "{what}: differs by {difference:e}, allowed {tolerance:e} × {scale:e}");
}

#[track_caller]
fn assert_equal(what: &str, got: &Tensor, expected: &Tensor) {
    assert_eq!(got.size(), expected.size(), "{what}: shape");
    let different = got.ne_tensor(expected).sum(Kind::Int64).int64_value(&[]);
    assert_eq!(different, 0, "{what}: so many elements differ");
}

fn dense(ids: &Tensor) -> Tensor {
    ids.internal_unique2(true, true, false).1
}

fn kmeans_file(name: &str, may_flip: i64) {
    let Some(golden) = Golden::open(name) else { return };
    let embeddings = golden.get("embeddings");
    let spec = golden.kmeans_spec();
    let size = embeddings.size();
    let start = base_segments::initial_labels(size[2], size[3], &spec, device());
    assert_equal("initial_labels", &start, golden.get("initial_labels"));

    let features = unit(embeddings, 1);
    let kept = Tensor::ones([size[0], size[2], size[3]], (Kind::Bool, device()));
    let no_edges = Tensor::zeros([size[0], size[2], size[3]], (Kind::Int64, device()));
    let base = BaseSegments::new(&features, &no_edges, &kept, &spec);
    let labels = golden.get("cluster_labels");
    let flipped = base.segment_of_pixel.ne_tensor(&labels.reshape([-1])).sum(Kind::Int64).int64_value(&[]);
    assert!(flipped <= may_flip, "cluster_labels: {flipped} pixels differ, {may_flip} may");
    let prototypes = unit(&base.sum(&base.gather(&features)), 1);
    if flipped == 0 {
        assert_close("prototypes", &prototypes, golden.get("prototypes"), TOLERANCE);
    } else {
        // A flipped pixel moves the mean of its two segments alone.
        let rows = (&prototypes - golden.get("prototypes")).abs().amax([1i64].as_slice(), false).gt(TOLERANCE);
        assert!(rows.sum(Kind::Int64).int64_value(&[]) <= 2 * flipped);
    }
}

#[test]
fn golden_torch_kmeans_small() {
    kmeans_file("kmeans_small", 0);
}

#[test]
fn golden_torch_kmeans_street() {
    kmeans_file("kmeans_street", 1);
}

#[test]
fn golden_torch_kmeans_with_edge_segments() {
    let Some(golden) = Golden::open("kmeans_with_edge_segments") else { return };
    let embeddings = golden.get("embeddings");
    let size = embeddings.size();
    // The file does not say: its grid and rounds are those of kmeans_small.
    let Some(spec) = Golden::open("kmeans_small").map(|g| g.kmeans_spec()) else { return };
    let edges = golden.get("edge_segments");
    let kept = edges.ne(255);
    let features = unit(embeddings, 1);
    let base = BaseSegments::new(&features, edges, &kept, &spec);
    assert_equal("cluster_index", &base.segment_of_pixel, golden.get("cluster_index"));
    assert_equal("image_index", &base.view_of_pixel, golden.get("image_index"));
    assert_equal("kept_edge_segment", &base.edge_of_pixel, golden.get("kept_edge_segment"));
    let kept_features = base.gather(&features);
    assert_close("embeddings_unit", &kept_features, golden.get("embeddings_unit"), TOLERANCE);
    let location = base_segments::location_features(size[2], size[3], device()).permute([2, 0, 1]);
    let location = location.unsqueeze(0).expand([size[0], 2, size[2], size[3]], false);
    let with_location = unit(&Tensor::cat(&[kept_features, base.gather(&location)], 1), 1);
    assert_close(
        "embeddings_with_location_unit",
        &with_location,
        golden.get("embeddings_with_location_unit"),
        TOLERANCE,
    );
}

fn clustering_transformer_file(name: &str, mode: Mode) {
    let Some(golden) = Golden::open(name) else { return };
    let query = golden.get("query");
    let (groups, dim) = (query.size()[0] as usize, query.size()[1] as usize);
    let spec =
        NetworkSpec { backbone: Backbone::ResNet18, width_factor: 0.5, embedding_dim: dim, groups: vec![groups] };
    let prefix = spec.transformer_prefix(0);
    let graph = clustering_transformer::training(&spec, 0).unwrap();
    let mut weights: Weights =
        golden.weights("weights.").into_iter().map(|(n, t)| (format!("{prefix}.{n}"), t)).collect();
    weights.insert(spec.query_param(0).name, plain(query));
    let params = ParamStore::new(&graph.params, &weights, name, device()).unwrap();
    let module = GraphModule::new(&graph, device()).unwrap();
    let src = golden.leaf("src");
    let valid = 1f64 - golden.get("padding_mask").to_kind(Kind::Float);
    let inputs = [(names::FEATURES, &src), (names::POSITIONS, golden.get("pos")), (names::VALID, &valid)];
    let mut outputs = module.run(&params, &inputs, mode).unwrap();
    let logits = outputs.take(names::LOGITS).unwrap();
    let centroids = outputs.take(names::CENTROIDS).unwrap();
    assert_close("encoder_memory", &outputs.take(names::MEMORY).unwrap(), golden.get("encoder_memory"), TOLERANCE);
    assert_close("logits", &logits, golden.get("logits"), TOLERANCE);
    assert_close("centroids", &centroids, golden.get("centroids"), TOLERANCE);
    let features = outputs.take(names::CENTROID_FEATURES).unwrap();
    assert_close("centroid_features", &features, golden.get("centroid_features"), TOLERANCE);

    let weight = Tensor::arange(groups as i64, (Kind::Float, device())).reshape([1, -1, 1]) + 1.0;
    let probe =
        (logits.softmax(1, None::<Kind>) * weight).sum(None::<Kind>) + centroids.square().sum(None::<Kind>) * 0.1;
    assert_close("probe_loss", &probe, golden.get("probe_loss"), TOLERANCE);
    probe.backward();
    assert_close("grad_src", &src.grad(), golden.get("grad_src"), GRADIENT_TOLERANCE);
    for (name, after) in &golden.0 {
        if let Some(name) = name.strip_prefix("running_after.") {
            assert_close(name, params.get(&format!("{prefix}.{name}")).unwrap(), after, TOLERANCE);
        }
    }
}

#[test]
fn golden_torch_clustering_transformer_eval() {
    clustering_transformer_file("clustering_transformer_eval", Mode::Evaluate);
}

#[test]
fn golden_torch_clustering_transformer_train() {
    clustering_transformer_file("clustering_transformer_train", Mode::Train { dropout: false });
}

#[test]
fn golden_torch_pixel_segment_loss() {
    let Some(golden) = Golden::open("pixel_segment_loss") else { return };
    let concentration = golden.get("concentration").double_value(&[0]);
    // Loss per pixel, mean, and its gradient through both sides: the segments are the unit mean features of their
    // pixels.
    let compute = |kind: Kind, sum: PositiveSum| {
        let features = golden.get("features").copy().to_kind(kind).set_requires_grad(true);
        let pixels = unit(&features, 1);
        let sums = Tensor::zeros(golden.get("segments").size(), (kind, device()));
        let segments = unit(&sums.index_add(0, golden.get("segment_of_pixel"), &pixels), 1);
        assert_close("segments", &segments, &unit(golden.get("segments"), 1), TOLERANCE);
        let segment_of_pixel = golden.get("segment_of_pixel");
        let groupings = [Grouping { group_of_segment: golden.get("group_of_segment"), weight: 1.0 }];
        let num_pixels = segment_of_pixel.size()[0] as f64;
        // Small chunks: several of them, the last one cut.
        let spec = PixelSegmentSpec { concentration, sum, num_pixels, chunk_bytes: 1 };
        let losses = pixel_segment_losses(&pixels, &segments, segment_of_pixel, &groupings, &spec, None);
        losses.total.backward();
        (losses.per_pixel[0].shallow_clone(), losses.total.detach(), features.grad())
    };
    let (exact, resolution) = pixel_segment_oracle(&golden, concentration);
    let close_per_pixel = |what: &str, got: &Tensor, expected: &Tensor, bound: &dyn Fn(usize) -> f64| {
        let scale = expected.abs().max().double_value(&[]);
        for i in 0..exact.len() {
            let (got, expected) = (got.double_value(&[i as i64]), expected.double_value(&[i as i64]));
            let allowed = TOLERANCE * scale + bound(i);
            assert!((got - expected).abs() <= allowed, "{what}: pixel {i}: {got} instead of {expected} ± {allowed:e}");
        }
    };
    // The form of the file, which cancels in float32: a pixel whose positives are near the resolution of the sum that
    // they are taken from may differ by as much as that resolution moves its logarithm.
    let (per_pixel, loss, gradient) = compute(Kind::Float, PositiveSum::Subtracted);
    close_per_pixel("per_pixel", &per_pixel, golden.get("per_pixel"), &|i| resolution[i]);
    assert_close("loss", &loss, golden.get("loss"), 2e-4);
    // What cancels depends on the order in which a device adds.
    let tolerance = if device() == Device::Cpu { GRADIENT_TOLERANCE } else { 2.0 * GRADIENT_TOLERANCE };
    assert_close("grad_features", &gradient, golden.get("grad_features"), tolerance);
    // The form that training uses: within 2e-4 of the file, and equal to Eq. 3 written out in float64.
    let (per_pixel, loss, gradient) = compute(Kind::Float, PositiveSum::Direct);
    assert_close("direct loss", &loss, golden.get("loss"), 2e-4);
    close_per_pixel("direct per_pixel", &per_pixel, &Tensor::from_slice(&exact), &|_| 0.0);
    let exact_loss = Tensor::from(exact.iter().sum::<f64>() / exact.len() as f64);
    assert_close("direct loss in float64", &loss, &exact_loss, TOLERANCE);
    let (_, _, gradient64) = compute(Kind::Double, PositiveSum::Subtracted);
    assert_close("direct grad_features", &gradient, &gradient64, GRADIENT_TOLERANCE);
}

/// Eq. 3 written out in float64: the loss of every pixel, and how far float32 may move it in the form that subtracts.
fn pixel_segment_oracle(golden: &Golden, concentration: f64) -> (Vec<f64>, Vec<f64>) {
    let rows = |t: &Tensor| -> Vec<Vec<f64>> {
        let unit = unit(&t.to_kind(Kind::Double), 1);
        (0..unit.size()[0]).map(|i| Vec::<f64>::try_from(unit.get(i)).unwrap()).collect()
    };
    let ids = |name: &str| Vec::<i64>::try_from(golden.get(name)).unwrap();
    let (segment_of_pixel, group_of_segment) = (ids("segment_of_pixel"), ids("group_of_segment"));
    let pixels = rows(golden.get("features"));
    let mut sums = vec![vec![0f64; pixels[0].len()]; group_of_segment.len()];
    for (pixel, &segment) in pixels.iter().zip(&segment_of_pixel) {
        sums[segment as usize].iter_mut().zip(pixel).for_each(|(sum, v)| *sum += v);
    }
    let lengths: Vec<f64> = sums.iter().map(|s| s.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12)).collect();
    let of_pixel = |(pixel, &own): (&Vec<f64>, &i64)| {
        let own = own as usize;
        let similarity = |s: usize| {
            let product: f64 = sums[s].iter().zip(pixel).map(|(a, b)| a * b).sum();
            (concentration * product / lengths[s]).exp()
        };
        let is_positive = |s: &usize| *s != own && group_of_segment[*s] == group_of_segment[own];
        let others: Vec<usize> = (0..sums.len()).filter(is_positive).collect();
        let positives: f64 = if others.is_empty() { similarity(own) } else { others.into_iter().map(similarity).sum() };
        let is_negative = |s: &usize| group_of_segment[*s] != group_of_segment[own];
        let negatives: f64 = (0..sums.len()).filter(is_negative).map(similarity).sum();
        let resolution = 8.0 * f64::from(f32::EPSILON) * (positives + similarity(own)) / positives;
        (((positives + negatives) / positives).ln(), resolution)
    };
    pixels.iter().zip(&segment_of_pixel).map(of_pixel).unzip()
}

fn goodness_file(name: &str, neighbours: usize) {
    let Some(golden) = Golden::open(name) else { return };
    let valid = 1f64 - golden.get("padding_mask").to_kind(Kind::Float);
    let graph = neighbour_graph(golden.get("x0"), &valid, None, Neighbours::Joint(neighbours));
    assert_equal("adjacency", &graph, golden.get("adjacency"));
    let logits = golden.leaf("assignment_logits");
    let assignment = logits.softmax(1, None::<Kind>);
    assert_close("assignment", &assignment, golden.get("assignment"), TOLERANCE);
    let (modularity, collapse) = (modularity(&graph, &assignment), collapse(&assignment, &valid));
    assert_close("modularity", &modularity, golden.get("modularity"), TOLERANCE);
    assert_close("collapse", &collapse, golden.get("collapse"), TOLERANCE);
    (modularity + collapse).backward();
    assert_close("grad_logits", &logits.grad(), golden.get("grad_logits"), GRADIENT_TOLERANCE);
}

#[test]
fn golden_torch_goodness_of_grouping_knn2() {
    goodness_file("goodness_of_grouping_knn2", 2);
}

#[test]
fn golden_torch_goodness_of_grouping_knn4() {
    goodness_file("goodness_of_grouping_knn4", 4);
}

/// The whole objective of the file `training_step` and its gradients.
struct TrainingStep {
    params: ParamStore,
    position: Tensor,
    embeddings: Tensor,
    out: Objective,
}

/// Computes it on the device of `golden`.
fn training_step(golden: &Golden, positive_sum: PositiveSum, form: Form, room: Option<Room>) -> TrainingStep {
    let embeddings = golden.leaf("embeddings");
    let device = embeddings.device();
    let size = embeddings.size();
    let groups_of = |name: &str| golden.get(name).size()[0] as usize;
    let spec = NetworkSpec {
        backbone: Backbone::ResNet18,
        width_factor: 0.5,
        embedding_dim: size[1] as usize,
        groups: vec![groups_of("grad_fine_query"), groups_of("grad_coarse_query")],
    };
    let mut specs: Vec<_> = spec.position_params().into();
    for level in 0..spec.groups.len() {
        specs.extend(clustering_transformer::training(&spec, level).unwrap().params);
    }
    let params = ParamStore::new(&specs, &golden.weights("weights."), "training_step", device).unwrap();
    let settings = ObjectiveSettings {
        kmeans: KmeansSpec { grid_rows: 3, grid_columns: 3, rounds: 10 },
        neighbours: Neighbours::Joint(4),
        weight_edge: 1.0,
        weight_feature: 0.1,
        weight_grouping: 0.2,
        positive_sum,
    };
    let module = ObjectiveModule::in_form(&spec, settings, device, form).unwrap();
    let position = module.position_embedding(&params, size[2], size[3]).unwrap();
    let position = position.expand(size.as_slice(), false);
    let image_of_view = golden.get("image_index");
    let num_images = image_of_view.max().int64_value(&[]) + 1;
    let kept = golden.get("ignore").eq(0);
    let edges = golden.get("edge_segments").where_scalarother(&kept, NO_REGION).view([-1]);
    let num_views = size[0] / num_images;
    let cells =
        KeptCells::of_edges(&Vec::<i64>::try_from(edges).unwrap(), (size[2] * size[3]) as usize, num_views as usize);
    let cells = cells.unwrap();
    let cells = KeptCells { index: cells.index.to_device(device), ..cells };
    let views = Views {
        edge_segments: golden.get("edge_segments"),
        kept: &kept,
        kept_cells: Some(&cells),
        room,
        image_of_view,
        num_images,
    };
    let mode = Mode::Train { dropout: false };
    let out = module.run(&params, &embeddings, &views, mode, &mut Profiler::default()).unwrap();
    out.total.backward();
    TrainingStep { params, position, embeddings, out }
}

/// Names of the gradients in the file and of their parameters.
const GRADIENTS: [(&str, &str); 3] = [
    ("grad_row_embed", "pos_embed.row_embed.weight"),
    ("grad_fine_query", "fine_query_embed._query_embedding.weight"),
    ("grad_coarse_query", "coarse_query_embed._query_embedding.weight"),
];

#[test]
fn golden_torch_training_step() {
    // On the CPU, with the arithmetic of the file: its features are random, so the positives of many pixels are below the
    // float32 resolution of their own segment's term, and it holds the form that cancels there (loss_feature is a fifth
    // lower). What is left of such a sum depends on the order of its terms.
    let Some(golden) = Golden::open_on("training_step", Device::Cpu) else { return };
    let TrainingStep { params, position, embeddings, out } =
        training_step(&golden, PositiveSum::Subtracted, Form::Host, None);
    assert_close("position_embedding", &position, golden.get("position_embedding"), TOLERANCE);
    assert_equal("cluster_index", &out.base.segment_of_pixel, golden.get("cluster_index"));
    assert_equal("view_index", &out.base.view_of_pixel, golden.get("view_index"));
    assert_equal("edge_segment_of_pixel", &out.base.edge_of_pixel, golden.get("edge_segment_of_pixel"));
    assert_close("segments", &out.segment_features, golden.get("segments"), TOLERANCE);
    assert_close("nd_segments", &out.tokens, golden.get("nd_segments"), TOLERANCE);
    assert_equal("nd_padding_mask", &out.valid.eq(0.0), &golden.get("nd_padding_mask").ne(0));
    for (level, name) in out.levels.iter().zip(["fine", "coarse"]) {
        assert_close(name, &level.assignment, golden.get(&format!("{name}_assignment")), TOLERANCE);
        assert_close(name, &level.centroids, golden.get(&format!("{name}_centroids")), TOLERANCE);
        // Groups without members keep their number here and may not in the file.
        let expected = dense(golden.get(&format!("{name}_group_of_segment")));
        assert_equal(name, &dense(&level.group_of_segment), &expected);
    }
    assert_close("loss_edge", &out.edge, golden.get("loss_edge"), TOLERANCE);
    assert_close("loss_grouping", &sum(&out.grouping), golden.get("loss_grouping"), TOLERANCE);
    assert_close("loss_feature", &sum(&out.feature), golden.get("loss_feature"), TOLERANCE);
    assert_close("loss", &out.total, golden.get("loss"), TOLERANCE);
    assert_close("grad_embeddings", &embeddings.grad(), golden.get("grad_embeddings"), GRADIENT_TOLERANCE);
    for (name, param) in GRADIENTS {
        assert_close(name, &params.get(param).unwrap().grad(), golden.get(name), GRADIENT_TOLERANCE);
    }
}

fn sum(terms: &[Tensor]) -> Tensor {
    terms.iter().fold(Tensor::from(0f32), |total, term| total + term.to_device(Device::Cpu))
}

/// The form for GPUs computes what the form for CPUs computes there, on the device that is tested: with sizes read back,
/// and with room for more segments than there are.
#[test]
fn golden_torch_training_step_on_device() {
    let Some(golden) = Golden::open_on("training_step", Device::Cpu) else { return };
    let expected = training_step(&golden, PositiveSum::Direct, Form::Host, None);
    let (segments, tokens) = (expected.out.base.num_segments, expected.out.valid.size()[1]);
    for room in [None, Some(Room { segments: segments + 37, tokens: tokens + 5 })] {
        let Some(golden) = Golden::open_on("training_step", device()) else { return };
        let got = training_step(&golden, PositiveSum::Direct, Form::Device, room);
        compare_steps(&expected, &got, segments, tokens);
    }
}

/// `got` may have more than these segments and tokens, behind them.
fn compare_steps(expected: &TrainingStep, got: &TrainingStep, segments: i64, tokens: i64) {
    let (e, g) = (&expected.out, &got.out);
    let here = |t: &Tensor| t.to_device(Device::Cpu);
    assert_equal("cluster_index", &here(&g.base.segment_of_pixel), &e.base.segment_of_pixel);
    assert_close("segments", &here(&g.segment_features.narrow(0, 0, segments)), &e.segment_features, TOLERANCE);
    assert_close("tokens", &here(&g.tokens.narrow(2, 0, tokens)), &e.tokens, TOLERANCE);
    for (g, e) in g.levels.iter().zip(&e.levels) {
        assert_close("assignment", &here(&g.assignment.narrow(2, 0, tokens)), &e.assignment, TOLERANCE);
        assert_close("centroids", &here(&g.centroids), &e.centroids, TOLERANCE);
        let groups = g.group_of_segment.narrow(0, 0, segments);
        assert_equal("group_of_segment", &here(&groups), &e.group_of_segment);
    }
    assert_close("loss_edge", &here(&g.edge), &e.edge, TOLERANCE);
    assert_close("loss_grouping", &sum(&g.grouping), &sum(&e.grouping), TOLERANCE);
    assert_close("loss_feature", &sum(&g.feature), &sum(&e.feature), TOLERANCE);
    assert_close("loss", &here(&g.total), &e.total, TOLERANCE);
    assert_close("gradient", &here(&got.embeddings.grad()), &expected.embeddings.grad(), GRADIENT_TOLERANCE);
    let size_of = |t: &Tensor| if t.defined() { t.abs().max().double_value(&[]) } else { 0.0 };
    let largest = expected.params.learned().map(|(_, param)| size_of(&param.grad())).fold(0.0, f64::max);
    for ((name, param), (_, other)) in expected.params.learned().zip(got.params.learned()) {
        let (e, g) = (param.grad(), other.grad());
        assert_eq!(e.defined(), g.defined(), "{name}");
        if e.defined() {
            // Some gradients, as that of the bias of keys, are nothing but rounding.
            let allowed = GRADIENT_TOLERANCE * size_of(&e).max(0.1 * largest);
            let difference = size_of(&(here(&g) - &e));
            assert!(difference <= allowed, "{name}: differs by {difference:e}, allowed {allowed:e}");
        }
    }
}

#[test]
fn golden_torch_schedule_step() {
    let Some(golden) = Golden::open("schedule_step") else { return };
    let base = golden.get("base_lr").double_value(&[0]);
    let warm_up = golden.get("warmup").int64_value(&[0]) as usize;
    for (name, decay) in [("lr", Decay::Step), ("lr_poly", Decay::Poly)] {
        let expected = golden.get(name);
        let steps = expected.size()[0] as usize;
        let got: Vec<f32> = (0..steps).map(|i| learning_rate(decay, base, i, steps, warm_up) as f32).collect();
        // Relative for every step: the last rates of a run are small.
        for (i, &lr) in got.iter().enumerate() {
            let expected = expected.double_value(&[i as i64]);
            assert!((f64::from(lr) - expected).abs() <= TOLERANCE * expected, "{name} {i}: {lr} instead of {expected}");
        }
    }
}

/// The 50-layer network in evaluation mode, weights regenerated by the rule that stands in the `.json`.
fn fcn_file(name: &str, stride: OutputStride) {
    let Some(golden) = Golden::open(name) else { return };
    let path = folders::golden(&format!("hsg/{name}.json")).expect("the rule of the weights lies beside the numbers");
    let rule: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let number = |key: &str| rule[key].as_f64().unwrap();
    let (step_element, step_tensor, phase) = (number("step_element"), number("step_tensor"), number("phase"));
    let mut weights = Weights::new();
    for tensor in rule["tensors"].as_array().unwrap() {
        let name = tensor["name"].as_str().unwrap();
        let index = tensor["index"].as_u64().unwrap() as f64;
        let shape: Vec<usize> =
            tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
        let value = |j: usize| {
            let s = (step_element * j as f64 + step_tensor * index + phase).sin();
            let value = match (name.rsplit('.').next(), shape.as_slice()) {
                (Some("weight"), &[_, input, kh, kw]) => (4.0 / (input * kh * kw) as f64).sqrt() * s,
                (Some("weight"), _) => 0.5 + 0.1 * s,
                (Some("bias"), _) => 0.05 * s,
                (Some("running_mean"), _) => 0.1 * s,
                (Some("running_var"), _) => 1.0 + 0.25 * s,
                (other, _) => panic!("no rule for a tensor named {other:?}"),
            };
            value as f32
        };
        let values = (0..shape.iter().product()).map(value).collect();
        weights.insert(name.to_owned(), PlainTensor { shape, values });
    }
    let expected = golden.get("embedding");
    let spec = NetworkSpec {
        backbone: Backbone::ResNet50,
        width_factor: 1.0,
        embedding_dim: expected.size()[1] as usize,
        groups: vec![8, 4],
    };
    let graph = embedding_net::fcn(&spec, stride).unwrap();
    let params = ParamStore::new(&graph.params, &weights, name, device()).unwrap();
    let module = GraphModule::new(&graph, device()).unwrap();
    let image = [(embedding_net::IMAGE, golden.get("image"))];
    let mut outputs = tch::no_grad(|| module.run(&params, &image, Mode::Evaluate)).unwrap();
    // A 50-layer network: 1e-3.
    assert_close("embedding", &outputs.take(embedding_net::EMBEDDING).unwrap(), expected, 1e-3);
}

#[test]
fn golden_torch_fcn_resnet50_test_stride8() {
    fcn_file("fcn_resnet50_test_stride8", OutputStride::Test8);
}

#[test]
fn golden_torch_fcn_resnet50_train_stride16() {
    fcn_file("fcn_resnet50_train_stride16", OutputStride::Train16);
}
