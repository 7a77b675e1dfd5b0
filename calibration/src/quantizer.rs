//! The int8 network of a recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use models::files::{read_file, sha256_hex};
use models::graph::{Graph, Op};
use models::onnx;
use models::passes::prepare_for_quantization;
use models::passes::quantize::{ActivationRange, Form, Ranges, insert_qdq, tensors_to_observe};
use models::weights::Weights;

use crate::error::{CalibrationError, Result};
use crate::ranges::Range;

/// A convolution that can be quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Its name: that of its result.
    pub name: String,
    /// Its bias, a parameter.
    pub bias: Option<String>,
    /// Its share of the network's multiplications.
    pub share: f64,
}

/// How a network is quantised.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// Range of each tensor.
    pub ranges: BTreeMap<String, Range>,
    /// Layers that stay in higher precision.
    pub keep: BTreeSet<String>,
    /// Biases that are not those of the fp32 network.
    pub biases: BTreeMap<String, Vec<f32>>,
}

/// A network in the form that becomes int8.
pub struct Quantizer {
    graph: Graph,
    weights: Weights,
    sha256: String,
    tensors: Vec<String>,
    layers: Vec<Layer>,
}

impl Quantizer {
    /// Reads an fp32 network; `input` is name and shape of what it is given, for counting multiplications.
    ///
    /// # Errors
    /// When the file cannot be read or has nothing to quantise.
    pub fn load(path: &Path, input: (&str, &[usize])) -> Result<Self> {
        let bytes = read_file(path)?;
        let (mut graph, mut weights) = onnx::read(&bytes, path)?;
        prepare_for_quantization(&mut graph, &mut weights)?;
        let shapes = graph.infer_shapes(&[input])?;
        let mut layers = Vec::new();
        let mut total = 0.0;
        for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::Conv { .. })) {
            let Some(weight) = graph.params.iter().find(|param| param.name == node.inputs[1]) else { continue };
            let results: usize = shapes.get(&node.output).map_or(0, |shape| shape.iter().product());
            let each: usize = weight.shape.iter().skip(1).product();
            let multiplications = results as f64 * each as f64;
            total += multiplications;
            layers.push(Layer {
                name: node.output.clone(),
                bias: node.inputs.get(2).filter(|bias| graph.params.iter().any(|p| p.name == **bias)).cloned(),
                share: multiplications,
            });
        }
        layers.iter_mut().for_each(|layer| layer.share /= f64::max(total, 1.0));
        let tensors = tensors_to_observe(&graph, &BTreeSet::new())?;
        Ok(Self { graph, weights, sha256: sha256_hex(&bytes), tensors, layers })
    }

    /// Tensors that need a range, in the order in which they are computed.
    pub fn tensors(&self) -> &[String] {
        &self.tensors
    }

    /// What can be quantised, in the order in which it is computed.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The network as it is before quantisation: what it computes is what fp32 computes.
    pub fn prepared(&self) -> (Graph, Weights) {
        (self.graph.clone(), self.weights.clone())
    }

    /// The bias of a layer with a recipe; `None` without a bias.
    pub fn bias<'a>(&'a self, layer: &Layer, recipe: &'a Recipe) -> Option<&'a [f32]> {
        let name = layer.bias.as_ref()?;
        let of_recipe = recipe.biases.get(name).map(Vec::as_slice);
        of_recipe.or_else(|| self.weights.get(name).map(|tensor| tensor.values.as_slice()))
    }

    /// The quantised network, in the CPU's form.
    ///
    /// # Errors
    /// When a tensor has no range, or the recipe names what the network does not have.
    pub fn build(&self, recipe: &Recipe) -> Result<(Graph, Weights)> {
        let (mut graph, mut weights) = self.prepared();
        for (name, values) in &recipe.biases {
            let tensor = weights.get_mut(name).filter(|tensor| tensor.values.len() == values.len());
            let tensor = tensor.ok_or_else(|| CalibrationError::OtherTensors { tensor: name.clone() })?;
            tensor.values.clone_from(values);
        }
        let range = |range: &Range| ActivationRange { min: range.low, max: range.high };
        let tensors = recipe.ranges.iter().map(|(name, held)| (name.clone(), range(held))).collect();
        let ranges = Ranges { model_sha256: self.sha256.clone(), tensors };
        insert_qdq(&mut graph, &mut weights, &ranges, Form::Cpu, &recipe.keep)?;
        Ok((graph, weights))
    }
}
