//! Backbone and head: an image becomes one embedding per pixel (paper §3.1, method.md §2).

use super::NetworkSpec;
use super::layers::{ConvShape, batch_norm, conv};
use super::resnet::{OutputStride, resnet};
use crate::Result;
use crate::graph::{Dim, Graph, Op};
use crate::params::ParamInit;

/// Norms below this are not divided by, as in PyTorch's `normalize`: a zero vector stays zero.
pub const NORM_FLOOR: f32 = 1e-12;

/// Name of the image input.
pub const IMAGE: &str = "image";
/// Name of the embedding output.
pub const EMBEDDING: &str = "embedding";

/// The fully convolutional network before normalisation: `image` `[b, 3, h, w]` (normalised by mean and standard
/// deviation) → `embedding` `[b, m, h/stride, w/stride]`, of any length per pixel.
///
/// # Errors
/// As [`NetworkSpec::validate`].
pub fn fcn(spec: &NetworkSpec, output_stride: OutputStride) -> Result<Graph> {
    let (mut graph, raw) = trunk(spec, output_stride)?;
    let dims = output_dims(spec);
    graph.output(EMBEDDING, &raw, &dims);
    Ok(graph)
}

/// The same, with every pixel's embedding divided by its Euclidean length (a zero vector stays zero).
///
/// # Errors
/// As [`NetworkSpec::validate`].
pub fn embedding_net(spec: &NetworkSpec, output_stride: OutputStride) -> Result<Graph> {
    let (mut graph, raw) = trunk(spec, output_stride)?;
    let norm = graph.push("norm", Op::ReduceL2 { axis: 1 }, &[&raw]);
    let floor = graph.constant("norm_floor", &[1], vec![NORM_FLOOR]);
    let norm = graph.push("norm.floored", Op::Max, &[&norm, &floor]);
    let unit = graph.push("unit", Op::Div, &[&raw, &norm]);
    let dims = output_dims(spec);
    graph.output(EMBEDDING, &unit, &dims);
    Ok(graph)
}

fn output_dims(spec: &NetworkSpec) -> [Dim; 4] {
    ["batch".into(), spec.embedding_dim.into(), "cell_rows".into(), "cell_columns".into()]
}

fn trunk(spec: &NetworkSpec, output_stride: OutputStride) -> Result<(Graph, String)> {
    spec.validate()?;
    let mut graph = Graph::new("embedding");
    let image = graph.input(IMAGE, &["batch".into(), 3.into(), "height".into(), "width".into()]);
    let features = resnet(&mut graph, "resnet_backbone", &image, spec.backbone, spec.width_factor, output_stride);
    let channels = spec.backbone.output_channels(spec.width_factor);
    let pointwise = |output| ConvShape { input: channels, output, kernel: 1, stride: 1, dilation: 1 };
    let default = ParamInit::pytorch_default(channels);
    let x = conv(&mut graph, "conv_out.0", &features, pointwise(channels), default, None);
    let x = batch_norm(&mut graph, "conv_out.1", &x, channels);
    let x = graph.push("conv_out.2", Op::Relu, &[&x]);
    let raw = conv(&mut graph, "conv_out.3", &x, pointwise(spec.embedding_dim), default, Some(default));
    Ok((graph, raw))
}
