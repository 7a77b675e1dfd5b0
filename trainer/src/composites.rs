//! Groups of a graph's nodes that libtorch has as one operator.
//!
//! On a GPU a small operator costs its launch, whatever it computes, and a clustering transformer has hundreds of them.
//! A linear layer is three nodes of a graph and scaled dot-product attention eight, each with a backward pass of its own;
//! libtorch has both as one. On a CPU the nodes stay: there they are not slower, and what a run computes does not change.

use std::collections::{BTreeMap, BTreeSet};

use models::graph::{Graph, Node, Op};
use tch::Tensor;

use crate::error::Result;

/// An operator that stands for several nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Composite {
    /// `W · x + b` for tokens x `[b, in, n]`, W `[out, in]`, b `[out]`: inputs x, W, b.
    Linear,
    /// `v · dropout(softmax(scale · qᵀ k + mask))ᵀ` for heads `[b, h, d, n]`: inputs q, k, v and, if there is one, the mask,
    /// which is added to `[b, h, queries, keys]`.
    Attention {
        /// What the products are multiplied by.
        scale: f64,
        /// Share of the weights that is dropped in training.
        dropout: f32,
    },
}

impl Composite {
    /// Its value.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn apply(self, x: &[&Tensor], is_dropping: bool) -> Result<Tensor> {
        Ok(match self {
            Composite::Linear => x[0].f_transpose(1, 2)?.f_linear(x[1], x.get(2).copied())?.f_transpose(1, 2)?,
            Composite::Attention { scale, dropout } => {
                let rows = |heads: &Tensor| heads.f_transpose(2, 3);
                let dropout = if is_dropping { f64::from(dropout) } else { 0.0 };
                let (q, k, v) = (rows(x[0])?, rows(x[1])?, rows(x[2])?);
                let mask = x.get(3).copied();
                let mixed = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, dropout, false, scale, false)?;
                mixed.f_transpose(2, 3)?
            }
        })
    }
}

/// The composites of a graph.
#[derive(Default)]
pub struct Composites {
    /// By the last of the nodes that each stands for, with the names of its inputs.
    pub at: BTreeMap<usize, (Composite, Vec<String>)>,
    /// The other nodes that they stand for.
    pub covered: BTreeSet<usize>,
}

impl Composites {
    /// Finds them in `graph`: values inside are read nowhere else.
    pub fn find(graph: &Graph) -> Self {
        let values = Values::new(graph);
        let mut found = Composites::default();
        for last in 0..graph.nodes.len() {
            let composite = values.linear(last).or_else(|| values.attention(last));
            if let Some((composite, inputs, covered)) = composite {
                found.at.insert(last, (composite, inputs));
                found.covered.extend(covered);
            }
        }
        found
    }
}

/// Where a graph's values come from and how often they are read.
struct Values<'a> {
    graph: &'a Graph,
    made_by: BTreeMap<&'a str, usize>,
    reads: BTreeMap<&'a str, usize>,
    params: BTreeSet<&'a str>,
}

/// A composite, its inputs, and the nodes inside but the last.
type Found = (Composite, Vec<String>, Vec<usize>);

impl<'a> Values<'a> {
    fn new(graph: &'a Graph) -> Self {
        let made_by = graph.nodes.iter().enumerate().map(|(i, node)| (node.output.as_str(), i)).collect();
        let mut reads = BTreeMap::new();
        let outputs = graph.outputs.iter().map(|output| output.name.as_str());
        for name in graph.nodes.iter().flat_map(|node| &node.inputs).map(String::as_str).chain(outputs) {
            *reads.entry(name).or_insert(0) += 1;
        }
        let params = graph.params.iter().map(|param| param.name.as_str()).collect();
        Values { graph, made_by, reads, params }
    }

    /// The node that makes a value which only one node reads.
    fn inner(&self, name: &str) -> Option<(usize, &'a Node)> {
        let index = *self.made_by.get(name)?;
        (self.reads.get(name) == Some(&1)).then(|| (index, &self.graph.nodes[index]))
    }

    /// Whether a value is a parameter or a slice of one.
    fn is_learned(&self, name: &str) -> bool {
        let slice_of = |index: &usize| match &self.graph.nodes[*index] {
            Node { op: Op::Slice { .. }, inputs, .. } => self.params.contains(inputs[0].as_str()),
            _ => false,
        };
        self.params.contains(name) || self.made_by.get(name).is_some_and(slice_of)
    }

    /// Add(MatMul(W, x), Unsqueeze(b)).
    fn linear(&self, last: usize) -> Option<Found> {
        let node = &self.graph.nodes[last];
        let (Op::Add, [product, column]) = (&node.op, node.inputs.as_slice()) else { return None };
        let (product_at, product) = self.inner(product)?;
        let (column_at, column) = self.inner(column)?;
        let (Op::MatMul, [weight, x]) = (&product.op, product.inputs.as_slice()) else { return None };
        let (Op::Unsqueeze { axis: 1 }, [bias]) = (&column.op, column.inputs.as_slice()) else { return None };
        if !self.is_learned(weight) || !self.is_learned(bias) {
            return None;
        }
        Some((Composite::Linear, vec![x.clone(), weight.clone(), bias.clone()], vec![product_at, column_at]))
    }

    /// MatMul(v, Transpose(Dropout(Softmax(Add(MatMul(Transpose(Mul(q, scale)), k), mask))))).
    fn attention(&self, last: usize) -> Option<Found> {
        const SWAP: [usize; 4] = [0, 1, 3, 2];
        let node = &self.graph.nodes[last];
        let (Op::MatMul, [v, shares]) = (&node.op, node.inputs.as_slice()) else { return None };
        let (shares_at, shares) = self.inner(shares)?;
        let Op::Transpose { perm } = &shares.op else { return None };
        let (dropped_at, dropped) = self.inner(&shares.inputs[0])?;
        let Op::Dropout { ratio } = dropped.op else { return None };
        let (softmax_at, softmax) = self.inner(&dropped.inputs[0])?;
        let Op::Softmax { axis: 3 } = softmax.op else { return None };
        let mut covered = vec![shares_at, dropped_at, softmax_at];
        let (mut scores_at, mut scores) = self.inner(&softmax.inputs[0])?;
        let mut mask = None;
        if let Op::Add = scores.op {
            covered.push(scores_at);
            mask = Some(scores.inputs[1].clone());
            (scores_at, scores) = self.inner(&scores.inputs[0])?;
        }
        let (Op::MatMul, [rows, k]) = (&scores.op, scores.inputs.as_slice()) else { return None };
        let (rows_at, rows) = self.inner(rows)?;
        let Op::Transpose { perm: of_rows } = &rows.op else { return None };
        let (scaled_at, scaled) = self.inner(&rows.inputs[0])?;
        let (Op::Mul, [q, scale]) = (&scaled.op, scaled.inputs.as_slice()) else { return None };
        let scale = self.graph.constants.get(scale).filter(|constant| constant.values.len() == 1)?;
        if perm.as_slice() != SWAP || of_rows.as_slice() != SWAP {
            return None;
        }
        covered.extend([scores_at, rows_at, scaled_at]);
        let composite = Composite::Attention { scale: f64::from(scale.values[0]), dropout: ratio };
        let inputs = [q, k, v].into_iter().cloned().chain(mask).collect();
        Some((composite, inputs, covered))
    }
}
