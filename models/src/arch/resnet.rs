//! ResNet-18 / 34 / 50 with the strides and dilations of method.md §2.

use serde::{Deserialize, Serialize};

use super::layers::{ConvShape, batch_norm, conv};
use crate::graph::{Graph, Op};
use crate::params::ParamInit;

/// Depth of the residual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// Basic blocks [2, 2, 2, 2].
    ResNet18,
    /// Basic blocks [3, 4, 6, 3].
    ResNet34,
    /// Bottleneck blocks [3, 4, 6, 3], the stride in the 3×3 convolution (the paper's network).
    ResNet50,
}

/// Total stride from image to embedding; the weights are the same, only strides and dilations differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStride {
    /// Stride 16, for training: stage strides (1, 2, 2, 1), dilations (1, 1, 1, 2).
    Train16,
    /// Stride 8, at test time: stage strides (1, 2, 1, 1), dilations (1, 1, 2, 4).
    Test8,
}

impl OutputStride {
    /// Pixels per embedding cell.
    pub fn pixels(self) -> usize {
        match self {
            OutputStride::Train16 => 16,
            OutputStride::Test8 => 8,
        }
    }

    fn stages(self) -> [(usize, usize); 4] {
        match self {
            OutputStride::Train16 => [(1, 1), (2, 1), (2, 1), (1, 2)],
            OutputStride::Test8 => [(1, 1), (2, 1), (1, 2), (1, 4)],
        }
    }
}

impl Backbone {
    fn blocks(self) -> [usize; 4] {
        match self {
            Backbone::ResNet18 => [2, 2, 2, 2],
            Backbone::ResNet34 | Backbone::ResNet50 => [3, 4, 6, 3],
        }
    }

    /// Output channels per inner channel of a block.
    fn expansion(self) -> usize {
        match self {
            Backbone::ResNet18 | Backbone::ResNet34 => 1,
            Backbone::ResNet50 => 4,
        }
    }

    /// Channels of the last stage at this width factor; the head has the same width.
    pub fn output_channels(self, width_factor: f64) -> usize {
        scaled(512, width_factor) * self.expansion()
    }
}

fn scaled(channels: usize, width_factor: f64) -> usize {
    ((channels as f64 * width_factor).round() as usize).max(1)
}

/// The multi-grid factors of the last stage; other stages have 1 everywhere.
const MULTI_GRID: [usize; 3] = [1, 2, 4];

/// Dilation of block `block` of a stage with dilation `stage_dilation`: the first block lags behind so that the
/// sampling grid stays that of the stage before; later blocks take the stage's own times the multi-grid factor.
fn first_conv_dilation(block: usize, stage_dilation: usize, is_last_stage: bool) -> usize {
    if block == 0 {
        if stage_dilation <= 2 { 1 } else { 2 }
    } else {
        later_conv_dilation(block, stage_dilation, is_last_stage)
    }
}

fn later_conv_dilation(block: usize, stage_dilation: usize, is_last_stage: bool) -> usize {
    stage_dilation * if is_last_stage { MULTI_GRID[block] } else { 1 }
}

/// Appends a ResNet to `graph`; parameters are named `prefix.conv1.…`, `prefix.res2.0.…`.
///
/// `image` is `[b, 3, h, w]`; returns the name of the feature map
/// `[b, output_channels, ⌈h/stride⌉, ⌈w/stride⌉]`.
pub fn resnet(
    graph: &mut Graph,
    prefix: &str,
    image: &str,
    backbone: Backbone,
    width_factor: f64,
    output_stride: OutputStride,
) -> String {
    let conv_bn = |graph: &mut Graph, conv_name: &str, bn_name: &str, x: &str, shape: ConvShape| {
        let init = ParamInit::backbone_conv(&[shape.output, shape.input, shape.kernel, shape.kernel]);
        let y = conv(graph, conv_name, x, shape, init, None);
        batch_norm(graph, bn_name, &y, shape.output)
    };
    let mut channels = scaled(64, width_factor);
    let stem = ConvShape { input: 3, output: channels, kernel: 7, stride: 2, dilation: 1 };
    let stem_name = format!("{prefix}.conv1");
    let x = conv_bn(graph, &format!("{stem_name}.conv1"), &format!("{stem_name}.bn1"), image, stem);
    let x = graph.push(format!("{stem_name}.relu"), Op::Relu, &[&x]);
    let pool = Op::MaxPool { kernel: [3; 2], strides: [2; 2], pads: [1; 2] };
    let mut x = graph.push(format!("{stem_name}.max_pool"), pool, &[&x]);

    for (stage, (&blocks, (stage_stride, dilation))) in backbone.blocks().iter().zip(output_stride.stages()).enumerate()
    {
        let inner = scaled(64 << stage, width_factor);
        let outer = inner * backbone.expansion();
        let is_last = stage == 3;
        for block in 0..blocks {
            let name = format!("{prefix}.res{}.{block}", stage + 2);
            let stride = if block == 0 { stage_stride } else { 1 };
            let first_dilation = first_conv_dilation(block, dilation, is_last);
            let plain = |input, output, kernel| ConvShape { input, output, kernel, stride: 1, dilation: 1 };
            // (name suffix, convolution) of the residual branch in order
            let convs = match backbone {
                Backbone::ResNet50 => vec![
                    plain(channels, inner, 1),
                    ConvShape { input: inner, output: inner, kernel: 3, stride, dilation: first_dilation },
                    plain(inner, outer, 1),
                ],
                Backbone::ResNet18 | Backbone::ResNet34 => vec![
                    ConvShape { input: channels, output: inner, kernel: 3, stride, dilation: first_dilation },
                    ConvShape {
                        input: inner,
                        output: inner,
                        kernel: 3,
                        stride: 1,
                        dilation: later_conv_dilation(block, dilation, is_last),
                    },
                ],
            };
            let mut branch = x.clone();
            for (i, shape) in convs.iter().enumerate() {
                let bn = format!("{name}.bn{}", i + 1);
                branch = conv_bn(graph, &format!("{name}.conv{}", i + 1), &bn, &branch, *shape);
                if i + 1 < convs.len() {
                    branch = graph.push(format!("{bn}.relu"), Op::Relu, &[&branch]);
                }
            }
            // The authors' stages always project in their first block where size or width changes.
            let shortcut = if stride != 1 || channels != outer {
                let shape = ConvShape { input: channels, output: outer, kernel: 1, stride, dilation: 1 };
                conv_bn(graph, &format!("{name}.downsample.0"), &format!("{name}.downsample.1"), &x, shape)
            } else {
                x.clone()
            };
            let sum = graph.push(format!("{name}.add"), Op::Add, &[&branch, &shortcut]);
            x = graph.push(format!("{name}.relu"), Op::Relu, &[&sum]);
            channels = outer;
        }
    }
    x
}
