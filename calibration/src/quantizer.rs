//! The int8 network of a recipe.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use models::files::{read_file, sha256_hex};
use models::graph::{Graph, Node, Op};
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

/// What a value costs that passes between integers and floats, in multiplications of fp32: it is read, written and moved to
/// another order of channels. Between 80 (one thread) and 500 (two, whose caches it changes) on an AMD EPYC with ONNX Runtime
/// 1.31: the time that `res3.0.downsample.1` takes of the shipped network when it is kept as well, without its
/// multiplications; an estimate from trials that were not kept.
const CROSSING: f64 = 250.0;

/// A network in the form that becomes int8.
pub struct Quantizer {
    graph: Graph,
    weights: Weights,
    sha256: String,
    tensors: Vec<String>,
    layers: Vec<Layer>,
    /// Multiplications of all layers.
    multiplications: f64,
    /// Values of each tensor.
    num_values: BTreeMap<String, usize>,
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
        let multiplications = f64::max(total, 1.0);
        layers.iter_mut().for_each(|layer| layer.share /= multiplications);
        let num_values = shapes.into_iter().map(|(name, shape)| (name, shape.iter().product())).collect();
        let tensors = tensors_to_observe(&graph, &BTreeSet::new())?;
        let sha256 = sha256_hex(&bytes);
        Ok(Self { graph, weights, sha256, tensors, layers, multiplications, num_values })
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

    /// Share of the multiplications that an engine with integer kernels does in floats, in a network that was built here:
    /// those of layers that do not read integers, and of layers whose result, a ReLU later at most, does not become integers
    /// again. A layer that is kept drags along those whose result it reads, which is why its own share says little: on the
    /// shipped network keeping `conv_out.1` (2 % of the multiplications) makes a layer of 19 % compute in floats.
    pub fn float_share(&self, graph: &Graph) -> f64 {
        let reading = Reading { graph };
        let is_integer = |layer: &&Layer| reading.by(&layer.name).is_some_and(|node| reading.is_integer(node));
        1.0 - self.layers.iter().filter(is_integer).map(|layer| layer.share).sum::<f64>()
    }

    /// What floats cost in a network that was built here, as a share of the multiplications of all of it: those done in
    /// floats, and `CROSSING` for each value that passes from floats to integers or back.
    pub fn float_cost(&self, graph: &Graph) -> f64 {
        self.float_share(graph) + CROSSING * self.crossings(graph) as f64 / self.multiplications
    }

    /// Values that pass from floats to integers or back.
    fn crossings(&self, graph: &Graph) -> usize {
        let reading = Reading { graph };
        let mut crossings = 0;
        for node in graph.nodes.iter().filter(|node| matches!(node.op, Op::QuantizeLinear { .. })) {
            let num_values = self.num_values.get(&node.inputs[0]).copied().unwrap_or(0);
            let before = reading.by(&node.inputs[0]);
            let before = before.filter(|node| node.op == Op::Relu).map_or(before, |relu| reading.by(&relu.inputs[0]));
            let from_floats = before.is_none_or(|node| !reading.is_integer(node));
            let read_as = graph.nodes.iter().filter(|reader| reader.inputs.contains(&node.output));
            let is_read = |reader: &Node| !reading.readers(&reader.output).all(|node| reading.is_integer(node));
            let to_floats = read_as.into_iter().any(is_read);
            crossings += num_values * (usize::from(from_floats) + usize::from(to_floats));
        }
        crossings
    }

    /// The quantised network, in the CPU's form.
    ///
    /// # Errors
    /// When a tensor has no range, or the recipe names what the network does not have.
    pub fn build(&self, recipe: &Recipe) -> Result<(Graph, Weights)> {
        self.build_form(recipe, Form::Cpu)
    }

    /// The quantised network in any form; the same recipe makes all of them.
    ///
    /// # Errors
    /// As [`Quantizer::build`].
    pub fn build_form(&self, recipe: &Recipe, form: Form) -> Result<(Graph, Weights)> {
        let (mut graph, mut weights) = self.prepared();
        for (name, values) in &recipe.biases {
            let tensor = weights.get_mut(name).filter(|tensor| tensor.values.len() == values.len());
            let tensor = tensor.ok_or_else(|| CalibrationError::OtherTensors { tensor: name.clone() })?;
            tensor.values.clone_from(values);
        }
        let range = |range: &Range| ActivationRange { min: range.low, max: range.high };
        let tensors = recipe.ranges.iter().map(|(name, held)| (name.clone(), range(held))).collect();
        let ranges = Ranges { model_sha256: self.sha256.clone(), tensors };
        insert_qdq(&mut graph, &mut weights, &ranges, form, &recipe.keep)?;
        Ok((graph, weights))
    }
}

/// A quantised network, as an engine with integer kernels reads it.
struct Reading<'a> {
    graph: &'a Graph,
}

impl<'a> Reading<'a> {
    fn by(&self, name: &str) -> Option<&'a Node> {
        self.graph.nodes.iter().find(|node| node.output == name)
    }

    fn readers(&self, name: &str) -> impl Iterator<Item = &'a Node> {
        self.graph.nodes.iter().filter(move |node| node.inputs.iter().any(|input| input == name))
    }

    fn is_quantized(&self, name: &str) -> bool {
        self.readers(name).any(|node| matches!(node.op, Op::QuantizeLinear { .. }))
    }

    /// Whether a node reads integers, and gives integers, perhaps after its ReLU.
    fn is_integer(&self, node: &Node) -> bool {
        let dequantized = |name: &String| self.by(name).is_some_and(|n| matches!(n.op, Op::DequantizeLinear { .. }));
        let reads = if matches!(node.op, Op::Conv { .. }) { &node.inputs[..2] } else { &node.inputs[..] };
        let relu = self.readers(&node.output).find(|node| node.op == Op::Relu);
        reads.iter().all(dequantized)
            && (self.is_quantized(&node.output) || relu.is_some_and(|relu| self.is_quantized(&relu.output)))
    }
}

#[cfg(test)]
mod tests {
    use models::manifest::{ModelFolder, Precision};
    use runtime::backend::cpu::CpuBackend;
    use runtime::backend::{Backend, EngineOptions};

    use super::*;
    use crate::judge::{Half, Judge};

    const SHAPE: [usize; 4] = [1, 3, 64, 96];

    fn tiny() -> (std::path::PathBuf, Quantizer) {
        let folder =
            ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-model")).unwrap();
        let path = folder.embedding_path(Precision::Fp32).unwrap();
        let quantizer = Quantizer::load(&path, ("image", &SHAPE)).unwrap();
        (path, quantizer)
    }

    /// Ranges that hold what a normalised image and its activations can be.
    fn wide(quantizer: &Quantizer) -> Recipe {
        let range = |name: &String| (name.clone(), Range { low: -8.0, high: 8.0 });
        Recipe { ranges: quantizer.tensors().iter().map(range).collect(), ..Recipe::default() }
    }

    #[test]
    fn what_is_kept_computes_as_before() {
        let (path, quantizer) = tiny();
        let options = EngineOptions { num_threads: 1 };
        let scratch = tempfile::tempdir().unwrap();
        let mut judge = Judge::new(Box::<CpuBackend>::default(), 1, scratch.path(), ("image", "embedding"));
        let mut reference = CpuBackend::default().load(&path, options).unwrap().session().unwrap();
        for step in [0.37f32, 0.11] {
            let input: Vec<f32> = (0..SHAPE.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
            judge.add(&mut *reference, SHAPE, &input).unwrap();
        }
        let mut recipe = wide(&quantizer);
        let error = |recipe: &Recipe| judge.error(&quantizer.build(recipe).unwrap(), Half::Search).unwrap();
        let all_quantized = error(&recipe);
        assert!(judge.error(&quantizer.prepared(), Half::Check).unwrap() < 1e-6);
        recipe.keep = quantizer.layers().iter().map(|layer| layer.name.clone()).collect();
        assert!(error(&recipe) < 1e-6 && all_quantized > 1e-5, "{all_quantized}");
        // Means of what fp32 computes are those of the network in which everything is kept.
        let names = [quantizer.layers()[0].name.as_str()];
        let means = judge.channel_means(&quantizer.build(&recipe).unwrap(), &names).unwrap();
        let expected = judge.channel_means(&quantizer.prepared(), &names).unwrap();
        assert!(!means[0].is_empty());
        means[0].iter().zip(&expected[0]).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{a} and {b}"));
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn shares_add_up_and_what_is_kept_costs_at_least_its_own() {
        let (_, quantizer) = tiny();
        let layers = quantizer.layers();
        assert!((layers.iter().map(|layer| layer.share).sum::<f64>() - 1.0).abs() < 1e-12);
        let float_share = |recipe: &Recipe| quantizer.float_share(&quantizer.build(recipe).unwrap().0);
        let mut recipe = wide(&quantizer);
        let all_quantized = float_share(&recipe);
        // The last layer gives floats.
        assert!((all_quantized - layers.last().unwrap().share).abs() < 1e-12);
        for layer in layers {
            let mut kept = recipe.clone();
            kept.keep.insert(layer.name.clone());
            let share = float_share(&kept);
            assert!(share >= layer.share - 1e-12 && share >= all_quantized - 1e-12, "{}: {share}", layer.name);
        }
        recipe.keep = layers.iter().map(|layer| layer.name.clone()).collect();
        assert!((float_share(&recipe) - 1.0).abs() < 1e-12);
    }

    /// A layer that is kept between others makes values cross twice; when everything is kept none do.
    #[test]
    fn values_that_cross_cost() {
        let (_, quantizer) = tiny();
        let mut recipe = wide(&quantizer);
        let crossings = |recipe: &Recipe| quantizer.crossings(&quantizer.build(recipe).unwrap().0);
        let all_quantized = crossings(&recipe);
        // The image becomes integers.
        assert!(all_quantized >= SHAPE.iter().product::<usize>(), "{all_quantized}");
        let layers = quantizer.layers();
        let middle = &layers[layers.len() / 2];
        recipe.keep.insert(middle.name.clone());
        assert!(crossings(&recipe) > all_quantized, "{}", middle.name);
        let graph = quantizer.build(&recipe).unwrap().0;
        let expected = CROSSING * crossings(&recipe) as f64 / quantizer.multiplications;
        assert!((quantizer.float_cost(&graph) - quantizer.float_share(&graph) - expected).abs() < 1e-12);
        recipe.keep = layers.iter().map(|layer| layer.name.clone()).collect();
        assert_eq!(crossings(&recipe), 0);
    }

    #[test]
    fn recipes_that_do_not_fit_are_refused_by_name() {
        let (_, quantizer) = tiny();
        let mut recipe = wide(&quantizer);
        recipe.keep.insert("no such layer".into());
        assert!(quantizer.build(&recipe).unwrap_err().to_string().contains("no such layer"));
        let mut recipe = wide(&quantizer);
        let tensor = quantizer.tensors()[1].clone();
        recipe.ranges.remove(&tensor);
        assert!(quantizer.build(&recipe).unwrap_err().to_string().contains(&tensor));
        let mut recipe = wide(&quantizer);
        recipe.biases.insert("no such bias".into(), vec![0.0]);
        assert!(quantizer.build(&recipe).unwrap_err().to_string().contains("no such bias"));
    }
}
