//! Layers that several architectures use.

use crate::graph::{Graph, Op};
use crate::params::ParamInit;

/// PyTorch's defaults for BatchNorm.
const EPSILON: f32 = 1e-5;
const MOMENTUM: f32 = 0.1;

/// Square convolution without bias, padded so that a stride of 1 keeps the size.
#[derive(Clone, Copy)]
pub struct ConvShape {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
}

/// Adds a convolution named `name` with weight `name.weight`.
pub fn conv(
    graph: &mut Graph,
    name: &str,
    x: &str,
    shape: ConvShape,
    init: ParamInit,
    bias: Option<ParamInit>,
) -> String {
    let ConvShape { input, output, kernel, stride, dilation } = shape;
    let weight = graph.param(format!("{name}.weight"), &[output, input, kernel, kernel], init);
    let pad = dilation * (kernel - 1) / 2;
    let op = Op::Conv { strides: [stride; 2], pads: [pad; 2], dilations: [dilation; 2] };
    match bias {
        Some(init) => {
            let bias = graph.param(format!("{name}.bias"), &[output], init);
            graph.push(name, op, &[x, &weight, &bias])
        }
        None => graph.push(name, op, &[x, &weight]),
    }
}

/// Adds a batch normalisation named `name` over axis 1.
pub fn batch_norm(graph: &mut Graph, name: &str, x: &str, channels: usize) -> String {
    let mut param = |suffix: &str, init| graph.param(format!("{name}.{suffix}"), &[channels], init);
    let scale = param("weight", ParamInit::Ones);
    let bias = param("bias", ParamInit::Zeros);
    let mean = param("running_mean", ParamInit::Zeros);
    let variance = param("running_var", ParamInit::Ones);
    let op = Op::BatchNormalization { epsilon: EPSILON, momentum: MOMENTUM };
    graph.push(name, op, &[x, &scale, &bias, &mean, &variance])
}

/// Adds `W · x` with x `[b, in, n]` and the parameter W `[out, in]` — a linear layer on channel-first tokens.
pub fn linear(graph: &mut Graph, name: &str, weight: &str, x: &str) -> String {
    graph.push(name, Op::MatMul, &[weight, x])
}

/// Adds a bias `[c]` to x `[b, c, n]`.
pub fn add_bias(graph: &mut Graph, name: &str, x: &str, bias: &str) -> String {
    let column = graph.push(format!("{name}.column"), Op::Unsqueeze { axis: 1 }, &[bias]);
    graph.push(name, Op::Add, &[x, &column])
}
