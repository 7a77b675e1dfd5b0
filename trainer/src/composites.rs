//! Groups of a graph's nodes that libtorch has as one operator, on tokens as rows.
//!
//! On a GPU a small operator costs its launch and its place in autograd's records, whatever it computes, and a clustering
//! transformer has hundreds of them. A linear layer is three nodes of a graph and multi-head attention twelve; libtorch has
//! both as one. Tokens, `[b, c, n]` in the graph, lie in memory as rows `[b·n, c]`, and stay such a matrix from operator to
//! operator: linear layers and normalisation take it as it is, without views in between that autograd records one by one.
//! On a CPU the nodes stay: there they are not slower, and what a run computes does not change.

use std::collections::{BTreeMap, BTreeSet};

use models::graph::{Graph, Node, Op};
use tch::Tensor;

use crate::error::Result;

/// An operator that stands for several nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Composite {
    /// `W · x + b` for tokens x, W `[out, in]`, b `[out]`: inputs x, W and, if there is one, b.
    Linear,
    /// Attention of several heads between projected queries, keys and values: inputs q, k, v and, if there is one, the
    /// mask, which is added to the scores `[b, heads, queries, keys]`.
    Attention {
        /// Number of heads.
        heads: i64,
        /// What the products are multiplied by.
        scale: f64,
        /// Share of the weights that is dropped in training.
        dropout: f32,
    },
}

/// A value on its way through a graph.
#[derive(Debug)]
pub enum Value {
    /// As the graph has it.
    Plain(Tensor),
    /// Tokens `[b, c, n]` as rows `[b·n, c]`, and b.
    Rows(Tensor, i64),
}

impl Value {
    /// As the graph has it.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn plain(&self) -> Result<Tensor> {
        Ok(match self {
            Value::Plain(tensor) => tensor.shallow_clone(),
            Value::Rows(rows, batch) => {
                let channels = rows.size()[1];
                rows.f_view([*batch, -1, channels].as_slice())?.f_transpose(1, 2)?
            }
        })
    }

    /// Rows, and the batch size; `None` for what is no tokens.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn rows(&self) -> Result<Option<(Tensor, i64)>> {
        Ok(match self {
            Value::Rows(rows, batch) => Some((rows.shallow_clone(), *batch)),
            Value::Plain(tensor) => match tensor.size()[..] {
                [batch, channels, _] => Some((tensor.f_transpose(1, 2)?.f_reshape([-1, channels])?, batch)),
                _ => None,
            },
        })
    }
}

impl Composite {
    /// Its value; `None` where an input is no tokens.
    ///
    /// # Errors
    /// [`crate::TrainError::Torch`].
    pub fn apply(self, x: &[&Value], is_dropping: bool) -> Result<Option<Value>> {
        let Some((first, batch)) = x[0].rows()? else { return Ok(None) };
        match self {
            Composite::Linear => {
                let weight = x[1].plain()?;
                let bias = x.get(2).map(|bias| bias.plain()).transpose()?;
                Ok(Some(Value::Rows(first.f_linear(&weight, bias)?, batch)))
            }
            Composite::Attention { heads, scale, dropout } => {
                let split = |rows: &Tensor| -> Result<Tensor> {
                    let width = rows.size()[1] / heads;
                    Ok(rows.f_view([batch, -1, heads, width].as_slice())?.f_transpose(1, 2)?)
                };
                let (Some((keys, _)), Some((values, _))) = (x[1].rows()?, x[2].rows()?) else { return Ok(None) };
                let mask = x.get(3).map(|mask| mask.plain()).transpose()?;
                let dropout = if is_dropping { f64::from(dropout) } else { 0.0 };
                let (q, k, v) = (split(&first)?, split(&keys)?, split(&values)?);
                let mixed = Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, dropout, false, scale, false)?;
                let joined = mixed.f_transpose(1, 2)?.f_reshape([-1, first.size()[1]])?;
                Ok(Some(Value::Rows(joined, batch)))
            }
        }
    }
}

/// An elementwise operator where tokens may stay rows; `None` where they may not.
///
/// # Errors
/// [`crate::TrainError::Torch`].
pub fn elementwise_rows(op: &Op, x: &[&Value]) -> Result<Option<Value>> {
    let sum = match (op, x) {
        (Op::Add, [Value::Rows(a, batch), Value::Rows(b, _)]) if a.size() == b.size() => {
            Value::Rows(a.f_add(b)?, *batch)
        }
        (Op::Add, [Value::Rows(a, batch), Value::Plain(b)] | [Value::Plain(b), Value::Rows(a, batch)]) => {
            let (size, channels) = (b.size(), a.size()[1]);
            match size[..] {
                // The same tokens, or one set for the whole batch.
                [b0, b1, b2] if b0 == *batch && b1 == channels && b0 * b2 == a.size()[0] => {
                    Value::Rows(a.f_add(&b.f_transpose(1, 2)?.f_reshape([-1, channels])?)?, *batch)
                }
                [b1, b2] if b1 == channels && batch * b2 == a.size()[0] => {
                    let sum = a.f_view([*batch, b2, channels].as_slice())?.f_add(&b.f_transpose(0, 1)?)?;
                    Value::Rows(sum.f_view([-1, channels].as_slice())?, *batch)
                }
                _ => return Ok(None),
            }
        }
        (Op::Relu, [Value::Rows(a, batch)]) => Value::Rows(a.f_relu()?, *batch),
        _ => return Ok(None),
    };
    Ok(Some(sum))
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
        // Linear layers without a bias.
        for (i, node) in graph.nodes.iter().enumerate().filter(|(i, _)| !found.covered.contains(i)) {
            if let (Op::MatMul, [weight, x]) = (&node.op, node.inputs.as_slice())
                && values.is_learned(weight)
            {
                found.at.insert(i, (Composite::Linear, vec![x.clone(), weight.clone()]));
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

    /// Reshape(MatMul(v, Transpose(Dropout(Softmax(Add(MatMul(Transpose(Mul(q, scale)), k), mask)))))), where q, k and v
    /// are reshaped to heads.
    fn attention(&self, last: usize) -> Option<Found> {
        const SWAP: [usize; 4] = [0, 1, 3, 2];
        let (Op::Reshape { .. }, [mixed]) = (&self.graph.nodes[last].op, self.graph.nodes[last].inputs.as_slice())
        else {
            return None;
        };
        let (mixed_at, mixed) = self.inner(mixed)?;
        let (Op::MatMul, [v, shares]) = (&mixed.op, mixed.inputs.as_slice()) else { return None };
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
        covered.extend([mixed_at, scores_at, rows_at, scaled_at]);
        let mut inputs = Vec::with_capacity(4);
        let mut heads = 0;
        for name in [q, k, v] {
            let (at, node) = self.inner(name)?;
            let (Op::Reshape { shape }, [projected]) = (&node.op, node.inputs.as_slice()) else { return None };
            heads = *shape.get(1).filter(|_| shape.len() == 4)?;
            inputs.push(projected.clone());
            covered.push(at);
        }
        inputs.extend(mask);
        let composite = Composite::Attention { heads, scale: f64::from(scale.values[0]), dropout: ratio };
        Some((composite, inputs, covered))
    }
}
