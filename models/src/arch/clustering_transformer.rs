//! One level of grouping: the clustering transformer (paper §3.2, Fig. 4 and 13; method.md §4).
//!
//! Tokens are channel-first, `[b, m, n]`, so that the authors' `[out, in]` matrices multiply from the left and
//! batch normalisation runs over batch and tokens as it does in their code. A DETR layout with batch instead of
//! layer normalisation: two encoder layers turn segment features X_l into Y_l, the statistics of Y_l become the
//! initial content of every decoder token, two decoder layers turn queries into group centroids.

use super::NetworkSpec;
use super::layers::{add_bias, batch_norm, linear};
use crate::Result;
use crate::graph::{Dim, Graph, Op};
use crate::params::ParamInit;

/// Attention heads.
pub const NUM_HEADS: usize = 4;
const NUM_LAYERS: usize = 2;
const DROPOUT: f32 = 0.1;
/// Added to the logits of padded keys: exp of it is 0 in every float format, and it is finite, so an image without
/// any valid token still gives numbers.
const MASKED: f32 = -1e9;

/// Names of the inputs and outputs of [`training`] and [`deployed`].
pub mod names {
    /// Segment features X_l, `[b, m, n]`.
    pub const FEATURES: &str = "features";
    /// Their positions, `[b, m, n]`.
    pub const POSITIONS: &str = "positions";
    /// 1 for a segment, 0 for padding, `[b, n]`; absent above the first level.
    pub const VALID: &str = "valid";
    /// 1 for a segment and for padding that counts, 0 for spare room, `[b, n]`; of
    /// [`training_with_spare_room`](super::training_with_spare_room) alone.
    pub const COUNTED: &str = "counted";
    /// Encoder output Y_l, `[b, m, n]`.
    pub const MEMORY: &str = "memory";
    /// Zᵀ Y / √m, `[b, k, n]`, groups ordered by their largest logit, descending.
    pub const LOGITS: &str = "logits";
    /// Projected centroids Z_{l+1}, `[b, m, k]`, in the same order.
    pub const CENTROIDS: &str = "centroids";
    /// Centroid features X_{l+1}, `[b, m, k]`, in the same order.
    pub const CENTROID_FEATURES: &str = "centroid_features";
}

/// How padded tokens are told from segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    /// No mask: every token is a segment (levels above the first).
    None,
    /// The authors' training form: the sum of squares runs over padded tokens too, so each adds mean².
    Counted,
    /// The same with tokens behind the padding that take no part in anything: room for more segments than there are.
    SpareRoom,
    /// The deployed form: sums over valid tokens only, which is what an unpadded batch of one gives.
    LeftOut,
}

/// The outputs of one transformer inside a larger graph.
pub(super) struct Level {
    pub memory: String,
    pub logits: String,
    pub centroids: String,
    pub centroid_features: String,
}

/// The transformer of level `level` as it trains: the first level takes a padding mask, the others none.
///
/// # Errors
/// As [`NetworkSpec::validate`].
pub fn training(spec: &NetworkSpec, level: usize) -> Result<Graph> {
    let (padding, tokens) = match level {
        0 => (Padding::Counted, "tokens".into()),
        _ => (Padding::None, Dim::Fixed(spec.groups[level - 1])),
    };
    alone(spec, level, padding, &tokens)
}

/// The first level's transformer as it trains, for tokens `[b, m, n]` of which only those count that the input
/// [`names::COUNTED`] has 1 for, the same in all images: it computes what [`training`] does of these alone. So n can be
/// chosen before the number of segments is known. Whoever runs it takes the statistics of batch normalisation over tokens
/// of the counted ones.
///
/// # Errors
/// As [`NetworkSpec::validate`].
pub fn training_with_spare_room(spec: &NetworkSpec) -> Result<Graph> {
    alone(spec, 0, Padding::SpareRoom, &"tokens".into())
}

/// The same transformer with `slots` fixed token places and a mask, as it is deployed: equal to the training form
/// on an unpadded batch of one. Dropout is still in the graph; [`crate::passes::strip_training`] removes it.
///
/// # Errors
/// As [`NetworkSpec::validate`].
pub fn deployed(spec: &NetworkSpec, level: usize, slots: usize) -> Result<Graph> {
    let padding = if level == 0 { Padding::LeftOut } else { Padding::None };
    alone(spec, level, padding, &slots.into())
}

fn alone(spec: &NetworkSpec, level: usize, padding: Padding, tokens: &Dim) -> Result<Graph> {
    spec.validate()?;
    let (m, k) = (spec.embedding_dim, spec.groups[level]);
    let mut graph = Graph::new(format!("{}_clustering_transformer", spec.level_prefix(level)));
    let dims = ["batch".into(), m.into(), tokens.clone()];
    let features = graph.input(names::FEATURES, &dims);
    let positions = graph.input(names::POSITIONS, &dims);
    let mask = [Dim::from("batch"), tokens.clone()];
    let valid = (padding != Padding::None).then(|| graph.input(names::VALID, &mask));
    if padding == Padding::SpareRoom {
        graph.input(names::COUNTED, &mask);
    }
    let out = append(&mut graph, spec, level, &features, &positions, valid.as_deref(), padding);
    graph.output(names::MEMORY, &out.memory, &dims);
    graph.output(names::LOGITS, &out.logits, &["batch".into(), k.into(), tokens.clone()]);
    for (name, value) in [(names::CENTROIDS, out.centroids), (names::CENTROID_FEATURES, out.centroid_features)] {
        graph.output(name, &value, &["batch".into(), m.into(), k.into()]);
    }
    Ok(graph)
}

/// Appends the transformer of a level to `graph`.
pub(super) fn append(
    graph: &mut Graph,
    spec: &NetworkSpec,
    level: usize,
    features: &str,
    positions: &str,
    valid: Option<&str>,
    padding: Padding,
) -> Level {
    let (m, k) = (spec.embedding_dim, spec.groups[level]);
    let prefix = spec.transformer_prefix(level);
    let core = format!("{prefix}._transformer");
    let mut b = Builder { graph, m };

    // [b, n] → [b, 1, n] for sums over tokens, [b, 1, 1, n] to mask attention keys.
    let valid_row = valid.map(|v| b.graph.push(format!("{prefix}.valid_row"), Op::Unsqueeze { axis: 1 }, &[v]));
    let key_mask = valid_row.as_ref().map(|row| {
        let one = b.graph.constant("one", &[1], vec![1.0]);
        let masked = b.graph.constant("masked", &[1], vec![MASKED]);
        let padded = b.graph.push(format!("{prefix}.padded"), Op::Sub, &[&one, row]);
        let penalty = b.graph.push(format!("{prefix}.key_penalty"), Op::Mul, &[&padded, &masked]);
        b.graph.push(format!("{prefix}.key_mask"), Op::Unsqueeze { axis: 1 }, &[&penalty])
    });

    // Which tokens sums and the order of the groups are made of, where these are not all.
    let taking_part = match padding {
        Padding::LeftOut => valid_row.clone(),
        Padding::SpareRoom => {
            Some(b.graph.push(format!("{prefix}.counted_row"), Op::Unsqueeze { axis: 1 }, &[names::COUNTED]))
        }
        Padding::Counted | Padding::None => None,
    };

    let mut memory = features.to_owned();
    for i in 0..NUM_LAYERS {
        let layer = format!("{core}.encoder.layers.{i}");
        let attention = format!("{layer}.self_attn");
        let queries = b.graph.push(format!("{attention}.with_positions"), Op::Add, &[&memory, positions]);
        let attended = b.attention(&attention, &queries, &queries, &memory, key_mask.as_deref());
        let x = b.residual_norm(&format!("{layer}.norm1.norm"), &memory, &attended);
        memory = b.feed_forward(&layer, &x, "norm2.norm");
    }

    let mut tokens = b.initial_tokens(&core, &memory, valid_row.as_deref(), taking_part.as_deref(), spec, level);
    let query = spec.query_param(level);
    let query = b.graph.param(query.name, &query.shape, query.init);
    let query = b.graph.push(format!("{prefix}.query_positions"), Op::Transpose { perm: vec![1, 0] }, &[&query]);
    let memory_keys = b.graph.push(format!("{core}.decoder.memory_keys"), Op::Add, &[&memory, positions]);
    for i in 0..NUM_LAYERS {
        let layer = format!("{core}.decoder.layers.{i}");
        let own = format!("{layer}.self_attn");
        let queries = b.graph.push(format!("{own}.with_positions"), Op::Add, &[&tokens, &query]);
        let attended = b.attention(&own, &queries, &queries, &tokens, None);
        let x = b.residual_norm(&format!("{layer}.norm1.norm"), &tokens, &attended);
        let cross = format!("{layer}.multihead_attn");
        let queries = b.graph.push(format!("{cross}.with_positions"), Op::Add, &[&x, &query]);
        let attended = b.attention(&cross, &queries, &memory_keys, &memory, key_mask.as_deref());
        let x = b.residual_norm(&format!("{layer}.norm2.norm"), &x, &attended);
        tokens = b.feed_forward(&layer, &x, "norm3.norm");
    }
    let decoded = batch_norm(b.graph, &format!("{core}.decoder.norm.norm"), &tokens, m);

    let centroids = b.centroid_head(&format!("{prefix}.centroid_fc"), &decoded);
    let centroid_features = b.centroid_head(&format!("{prefix}.centroid_feat_fc"), &decoded);

    // logits = Zᵀ Y / √m
    let transposed =
        b.graph.push(format!("{prefix}.centroids_t"), Op::Transpose { perm: vec![0, 2, 1] }, &[&centroids]);
    let products = b.graph.push(format!("{prefix}.products"), Op::MatMul, &[&transposed, &memory]);
    let scale = b.graph.constant(format!("{prefix}.scale"), &[1], vec![1.0 / (m as f32).sqrt()]);
    let unordered = b.graph.push(format!("{prefix}.logits_unordered"), Op::Mul, &[&products, &scale]);

    // Order the groups by their largest logit, descending: a permutation matrix from the left (exact: each row
    // sums one value and zeros).
    let ranked = match &taking_part {
        Some(row) => {
            let one = b.graph.constant("one", &[1], vec![1.0]);
            let masked = b.graph.constant("masked", &[1], vec![MASKED]);
            let padded = b.graph.push(format!("{prefix}.rank_padded"), Op::Sub, &[&one, row]);
            let penalty = b.graph.push(format!("{prefix}.rank_penalty"), Op::Mul, &[&padded, &masked]);
            b.graph.push(format!("{prefix}.rank_logits"), Op::Add, &[&unordered, &penalty])
        }
        None => unordered.clone(),
    };
    let largest = b.graph.push(format!("{prefix}.largest_logit"), Op::ReduceMax { axis: 2 }, &[&ranked]);
    let order = b.graph.push(format!("{prefix}.order"), Op::DescendingOrder { length: k }, &[&largest]);
    let permutation = b.graph.push(format!("{prefix}.permutation"), Op::OneHot { depth: k }, &[&order]);
    let inverse =
        b.graph.push(format!("{prefix}.permutation_t"), Op::Transpose { perm: vec![0, 2, 1] }, &[&permutation]);
    let logits = b.graph.push(format!("{prefix}.logits"), Op::MatMul, &[&permutation, &unordered]);
    let centroids = b.graph.push(format!("{prefix}.centroids"), Op::MatMul, &[&centroids, &inverse]);
    let centroid_features =
        b.graph.push(format!("{prefix}.centroid_features"), Op::MatMul, &[&centroid_features, &inverse]);
    Level { memory, logits, centroids, centroid_features }
}

struct Builder<'a> {
    graph: &'a mut Graph,
    m: usize,
}

impl Builder<'_> {
    fn dropout(&mut self, x: &str) -> String {
        self.graph.push(format!("{x}.dropout"), Op::Dropout { ratio: DROPOUT }, &[x])
    }

    /// norm(x + dropout(update))
    fn residual_norm(&mut self, norm: &str, x: &str, update: &str) -> String {
        let update = self.dropout(update);
        let sum = self.graph.push(format!("{norm}.residual"), Op::Add, &[x, &update]);
        batch_norm(self.graph, norm, &sum, self.m)
    }

    fn feed_forward(&mut self, layer: &str, x: &str, norm: &str) -> String {
        let hidden_size = 2 * self.m;
        let hidden = self.linear_with_bias(&format!("{layer}.linear1"), x, hidden_size, self.m);
        let hidden = self.graph.push(format!("{layer}.relu"), Op::Relu, &[&hidden]);
        let hidden = self.dropout(&hidden);
        let update = self.linear_with_bias(&format!("{layer}.linear2"), &hidden, self.m, hidden_size);
        self.residual_norm(&format!("{layer}.{norm}"), x, &update)
    }

    fn linear_with_bias(&mut self, name: &str, x: &str, output: usize, input: usize) -> String {
        let weight =
            self.graph.param(format!("{name}.weight"), &[output, input], ParamInit::xavier_uniform(output, input));
        let bias = self.graph.param(format!("{name}.bias"), &[output], ParamInit::pytorch_default(input));
        let product = linear(self.graph, &format!("{name}.product"), &weight, x);
        add_bias(self.graph, name, &product, &bias)
    }

    /// Multi-head attention with PyTorch's packed projection: rows 0..m of `in_proj` make queries, m..2m keys,
    /// 2m..3m values.
    fn attention(&mut self, name: &str, queries: &str, keys: &str, values: &str, key_mask: Option<&str>) -> String {
        let m = self.m;
        let head_dim = m / NUM_HEADS;
        let weight =
            self.graph.param(format!("{name}.in_proj_weight"), &[3 * m, m], ParamInit::xavier_uniform(3 * m, m));
        let bias = self.graph.param(format!("{name}.in_proj_bias"), &[3 * m], ParamInit::Zeros);
        let mut project = |what: &str, part: usize, x: &str| {
            let slice = Op::Slice { axis: 0, start: part * m, end: (part + 1) * m };
            let weight = self.graph.push(format!("{name}.{what}_weight"), slice.clone(), &[&weight]);
            let bias = self.graph.push(format!("{name}.{what}_bias"), slice, &[&bias]);
            let product = linear(self.graph, &format!("{name}.{what}_product"), &weight, x);
            let projected = add_bias(self.graph, &format!("{name}.{what}"), &product, &bias);
            let heads = Op::Reshape { shape: vec![0, NUM_HEADS as i64, head_dim as i64, -1] };
            self.graph.push(format!("{name}.{what}_heads"), heads, &[&projected])
        };
        let q = project("query", 0, queries);
        let k = project("key", 1, keys);
        let v = project("value", 2, values);
        let scale = self.graph.constant(format!("{name}.scale"), &[1], vec![1.0 / (head_dim as f32).sqrt()]);
        let q = self.graph.push(format!("{name}.scaled_query"), Op::Mul, &[&q, &scale]);
        let q = self.graph.push(format!("{name}.query_t"), Op::Transpose { perm: vec![0, 1, 3, 2] }, &[&q]);
        let mut scores = self.graph.push(format!("{name}.scores"), Op::MatMul, &[&q, &k]);
        if let Some(mask) = key_mask {
            scores = self.graph.push(format!("{name}.masked_scores"), Op::Add, &[&scores, mask]);
        }
        let shares = self.graph.push(format!("{name}.attention"), Op::Softmax { axis: 3 }, &[&scores]);
        let shares = self.dropout(&shares);
        // [b, h, d, keys] · [b, h, keys, queries]
        let shares =
            self.graph.push(format!("{name}.attention_t"), Op::Transpose { perm: vec![0, 1, 3, 2] }, &[&shares]);
        let mixed = self.graph.push(format!("{name}.mixed"), Op::MatMul, &[&v, &shares]);
        let joined = Op::Reshape { shape: vec![0, m as i64, -1] };
        let joined = self.graph.push(format!("{name}.joined"), joined, &[&mixed]);
        let out = format!("{name}.out_proj");
        let weight = self.graph.param(format!("{out}.weight"), &[m, m], ParamInit::xavier_uniform(m, m));
        let bias = self.graph.param(format!("{out}.bias"), &[m], ParamInit::Zeros);
        let product = linear(self.graph, &format!("{out}.product"), &weight, &joined);
        add_bias(self.graph, &out, &product, &bias)
    }

    /// Statistical feature mapping: mean and standard deviation of Y over tokens, through two linear layers, become
    /// the initial content of every decoder token, `[b, m, k]`.
    fn initial_tokens(
        &mut self,
        core: &str,
        memory: &str,
        valid_row: Option<&str>,
        taking_part: Option<&str>,
        spec: &NetworkSpec,
        level: usize,
    ) -> String {
        let m = self.m;
        let graph = &mut *self.graph;
        let name = |what: &str| format!("{core}.statistics.{what}");
        let (mean, variance) = match valid_row {
            Some(valid) => {
                let count = graph.push(name("count"), Op::ReduceSum { axis: 2 }, &[valid]);
                let masked = graph.push(name("masked"), Op::Mul, &[memory, valid]);
                let sum = graph.push(name("sum"), Op::ReduceSum { axis: 2 }, &[&masked]);
                let mean = graph.push(name("mean"), Op::Div, &[&sum, &count]);
                let centred = graph.push(name("centred"), Op::Sub, &[&masked, &mean]);
                let mut squares = graph.push(name("squares"), Op::Mul, &[&centred, &centred]);
                if let Some(taking_part) = taking_part {
                    squares = graph.push(name("valid_squares"), Op::Mul, &[&squares, taking_part]);
                }
                let total = graph.push(name("total"), Op::ReduceSum { axis: 2 }, &[&squares]);
                let one = graph.constant("one", &[1], vec![1.0]);
                let divisor = graph.push(name("divisor"), Op::Add, &[&count, &one]);
                (mean, graph.push(name("variance"), Op::Div, &[&total, &divisor]))
            }
            None => {
                let mean = graph.push(name("mean"), Op::ReduceMean { axis: 2 }, &[memory]);
                let centred = graph.push(name("centred"), Op::Sub, &[memory, &mean]);
                let squares = graph.push(name("squares"), Op::Mul, &[&centred, &centred]);
                let total = graph.push(name("total"), Op::ReduceSum { axis: 2 }, &[&squares]);
                let tokens = spec.groups[level - 1];
                let divisor = graph.constant(name("divisor"), &[1], vec![tokens as f32 - 1.0]);
                (mean, graph.push(name("variance"), Op::Div, &[&total, &divisor]))
            }
        };
        let deviation = graph.push(name("deviation"), Op::Sqrt, &[&variance]);
        let both = graph.push(name("both"), Op::Concat { axis: 1 }, &[&mean, &deviation]);
        let mapping = format!("{core}.tgt_fc");
        let first =
            graph.param(format!("{mapping}.0.weight"), &[2 * m, 2 * m], ParamInit::xavier_uniform(2 * m, 2 * m));
        let x = linear(graph, &format!("{mapping}.0"), &first, &both);
        let x = batch_norm(graph, &format!("{mapping}.1"), &x, 2 * m);
        let x = graph.push(format!("{mapping}.2"), Op::Relu, &[&x]);
        let x = self.linear_with_bias(&format!("{mapping}.3"), &x, m, 2 * m);
        // One copy per group.
        let k = spec.groups[level];
        let zeros = self.graph.constant(format!("{core}.zeros"), &[1, 1, k], vec![0.0; k]);
        self.graph.push(format!("{core}.initial_tokens"), Op::Add, &[&x, &zeros])
    }

    /// ReLU → linear without bias → batch normalisation.
    fn centroid_head(&mut self, name: &str, x: &str) -> String {
        let m = self.m;
        let x = self.graph.push(format!("{name}.0"), Op::Relu, &[x]);
        let weight = self.graph.param(format!("{name}.1.weight"), &[m, m], ParamInit::xavier_uniform(m, m));
        let x = linear(self.graph, &format!("{name}.1"), &weight, &x);
        batch_norm(self.graph, &format!("{name}.2"), &x, m)
    }
}
