//! Which recipe costs least: methods per tensor, layers to keep, biases to correct, each tried and measured.

use std::collections::{BTreeMap, BTreeSet};

use models::graph::Graph;
use models::passes::quantize::Form;
use models::passes::to_fp32;
use models::weights::Weights;
use serde::{Deserialize, Serialize};

use crate::error::{CalibrationError, Result};
use crate::judge::{Half, Judge};
use crate::quantizer::{Layer, Quantizer, Recipe};
use crate::ranges::{Bits, Method, Range, best, range, relative_error};
use crate::table::Table;

/// A change that makes the error smaller by less than this share is not worth it: it would not hold on other frames.
const WORTH_METHOD: f64 = 0.002;
/// The same for a layer that is kept in higher precision, which costs time.
const WORTH_LAYER: f64 = 0.02;
/// Tensors of the embedding network in a table.
const PREFIX: &str = "embedding/";

/// How a tensor's range was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorChoice {
    /// The method.
    pub method: Method,
    /// Lowest value.
    pub low: f32,
    /// Highest value.
    pub high: f32,
    /// Mean squared error expected from the histogram, as a share of the mean square.
    pub expected_error: f64,
}

/// What a layer costs: leave-one-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerSensitivity {
    /// The layer.
    pub layer: String,
    /// Error of the network with all other layers quantised.
    pub error_without: f64,
    /// The layer's share of the network's multiplications.
    pub share: f64,
    /// What keeping it alone costs ([`Quantizer::float_cost`]): its own multiplications and those that are no longer fused,
    /// and values that pass between integers and floats.
    pub cost: f64,
    /// Whether it stays in higher precision.
    pub kept: bool,
}

/// How the network was quantised, and what each step brought. Errors are mean 1 − cosine to the fp32 features; but for the
/// last two, over the frames that decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantization {
    /// Hash of the model.
    pub model_hash: String,
    /// Frames of the table that ranges come from.
    pub calibration_frames: usize,
    /// Frames that decided.
    pub search_frames: usize,
    /// Frames that only checked.
    pub check_frames: usize,
    /// What floats may cost for the sake of accuracy ([`Quantizer::float_cost`]), as a share of the multiplications.
    pub budget: f64,
    /// What they do cost.
    pub kept_share: f64,
    /// All tensors by each method alone.
    pub error_by_method: BTreeMap<Method, f64>,
    /// The best method of each tensor by its histogram.
    pub error_histogram: f64,
    /// After methods were tried tensor by tensor.
    pub error_methods: f64,
    /// With the layers that are kept.
    pub error_kept: f64,
    /// With biases corrected.
    pub error_biases: f64,
    /// Min-max ranges and nothing else, on the frames that checked.
    pub check_min_max: f64,
    /// The result on the frames that checked.
    pub check_final: f64,
    /// The same recipe in the forms that TensorRT reads, with symmetric ranges, on the frames that checked; the form of
    /// TensorRT 10 with its fp16 numbers widened.
    pub check_tensorrt8: f64,
    /// See [`Quantization::check_tensorrt8`].
    pub check_tensorrt10: f64,
    /// Layers whose bias was corrected.
    pub biases_corrected: Vec<String>,
    /// The biases, by the names of the parameters: with `tensors` and the layers kept, all that the other forms need.
    pub biases: BTreeMap<String, Vec<f32>>,
    /// Ranges.
    pub tensors: BTreeMap<String, TensorChoice>,
    /// Layers, in the order in which they are computed.
    pub layers: Vec<LayerSensitivity>,
}

/// Where a search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is being tried.
    pub what: &'static str,
    /// Trials of it so far.
    pub done: usize,
    /// Trials in all.
    pub of: usize,
}

/// Finds a recipe within `budget`: what floats may cost ([`Quantizer::float_cost`]), as a share of the multiplications, 0 to 1.
/// `go_on` is asked before every trial; `false` ends the search.
///
/// # Errors
/// [`CalibrationError::Stopped`] when told to; [`CalibrationError::OtherTensors`] when the table lacks a tensor; when a
/// network cannot be built or run.
pub fn search(
    quantizer: &Quantizer,
    table: &Table,
    judge: &Judge<'_>,
    budget: f64,
    go_on: &mut dyn FnMut(Step) -> bool,
) -> Result<(Recipe, Quantization)> {
    let candidates = candidates(quantizer, table)?;
    let mut trial =
        |what, done, of| if go_on(Step { what, done, of }) { Ok(()) } else { Err(CalibrationError::Stopped) };
    let error = |recipe: &Recipe| judge.error(&quantizer.build(recipe)?, Half::Search);

    let mut error_by_method = BTreeMap::new();
    let recipe_of = |method: &dyn Fn(&Candidates) -> Method| Recipe {
        ranges: candidates.iter().map(|(name, held)| (name.clone(), held.range(method(held)))).collect(),
        ..Recipe::default()
    };
    for (done, method) in Method::ALL.into_iter().enumerate() {
        trial("each method alone", done, Method::ALL.len() + 1)?;
        error_by_method.insert(method, error(&recipe_of(&|_| method))?);
    }
    trial("each method alone", Method::ALL.len(), Method::ALL.len() + 1)?;
    let mut recipe = recipe_of(&|held| held.best);
    let error_histogram = error(&recipe)?;
    let mut methods: BTreeMap<&str, Method> =
        candidates.iter().map(|(name, held)| (name.as_str(), held.best)).collect();
    let mut least = error_histogram;
    if let Some((&method, &of_method)) = error_by_method.iter().min_by(|a, b| a.1.total_cmp(b.1))
        && of_method < least
    {
        recipe = recipe_of(&|_| method);
        methods.values_mut().for_each(|held| *held = method);
        least = of_method;
    }

    for (done, (name, held)) in candidates.iter().enumerate() {
        trial("methods per tensor", done, candidates.len())?;
        for method in Method::ALL {
            let range = held.range(method);
            if recipe.ranges.get(name) == Some(&range) {
                continue;
            }
            let mut changed = recipe.clone();
            changed.ranges.insert(name.clone(), range);
            let of_changed = error(&changed)?;
            if of_changed < least * (1.0 - WORTH_METHOD) {
                (recipe, least) = (changed, of_changed);
                methods.insert(name, method);
            }
        }
    }
    let error_methods = least;

    let layers = quantizer.layers();
    let float_cost = |recipe: &Recipe| -> Result<f64> { Ok(quantizer.float_cost(&quantizer.build(recipe)?.0)) };
    let all_quantized: f64 = float_cost(&recipe)?;
    let cost = |recipe: &Recipe| -> Result<f64> { Ok(float_cost(recipe)? - all_quantized) };
    let mut sensitivity = Vec::with_capacity(layers.len());
    for (done, layer) in layers.iter().enumerate() {
        trial("layers left out", done, layers.len())?;
        let mut without = recipe.clone();
        without.keep.insert(layer.name.clone());
        sensitivity.push(Sensitivity { error_without: error(&without)?, cost: cost(&without)?, layer });
    }
    let kept_share = keep_layers(&mut recipe, &mut least, &sensitivity, budget, &cost, &error)?;
    let error_kept = least;

    let biases_corrected = correct_biases(quantizer, judge, &mut recipe, &mut least, &mut trial)?;
    trial("checking", 0, 1)?;
    let check = |recipe: &Recipe| judge.error(&quantizer.build(recipe)?, Half::Check);
    let quantization = Quantization {
        model_hash: table.model_hash.clone(),
        calibration_frames: table.frames.len(),
        search_frames: judge.num_frames().div_ceil(2),
        check_frames: judge.num_frames() / 2,
        budget,
        kept_share,
        error_by_method,
        error_histogram,
        error_methods,
        error_kept,
        error_biases: least,
        check_min_max: check(&recipe_of(&|_| Method::MinMax))?,
        check_final: check(&recipe)?,
        check_tensorrt8: judge.error(&quantizer.build_form(&recipe, Form::TensorRt8)?, Half::Check)?,
        check_tensorrt10: judge.error(&widened(quantizer.build_form(&recipe, Form::TensorRt10)?), Half::Check)?,
        biases: recipe.biases.clone(),
        biases_corrected,
        tensors: candidates.iter().map(|(name, held)| held.choice(name, &methods)).collect(),
        layers: sensitivity
            .into_iter()
            .map(|Sensitivity { error_without, cost, layer }| LayerSensitivity {
                layer: layer.name.clone(),
                error_without,
                share: layer.share,
                cost,
                kept: recipe.keep.contains(&layer.name),
            })
            .collect(),
    };
    Ok((recipe, quantization))
}

impl Quantization {
    /// The recipe, for other forms of the same network.
    pub fn recipe(&self) -> Recipe {
        let range = |choice: &TensorChoice| Range { low: choice.low, high: choice.high };
        Recipe {
            ranges: self.tensors.iter().map(|(name, choice)| (name.clone(), range(choice))).collect(),
            keep: self.layers.iter().filter(|layer| layer.kept).map(|layer| layer.layer.clone()).collect(),
            biases: self.biases.clone(),
        }
    }
}

/// A network without fp16: ONNX Runtime truncates where it quantises fp16 numbers, which no engine that matters does.
fn widened((mut graph, weights): (Graph, Weights)) -> (Graph, Weights) {
    to_fp32(&mut graph);
    (graph, weights)
}

/// What keeping one layer brings.
struct Sensitivity<'a> {
    error_without: f64,
    cost: f64,
    layer: &'a Layer,
}

/// Ranges of one tensor by each method.
struct Candidates {
    ranges: [(Method, Range, f64); 4],
    best: Method,
}

impl Candidates {
    fn of(&self, method: Method) -> (Method, Range, f64) {
        let [first, ..] = self.ranges;
        self.ranges.into_iter().find(|(held, ..)| *held == method).unwrap_or(first)
    }

    fn range(&self, method: Method) -> Range {
        self.of(method).1
    }

    fn choice(&self, name: &str, methods: &BTreeMap<&str, Method>) -> (String, TensorChoice) {
        let (method, range, expected_error) = self.of(methods.get(name).copied().unwrap_or(self.best));
        (name.to_owned(), TensorChoice { method, low: range.low, high: range.high, expected_error })
    }
}

fn candidates(quantizer: &Quantizer, table: &Table) -> Result<Vec<(String, Candidates)>> {
    let bits = Bits::Asymmetric;
    let of_tensor = |name: &String| {
        let histogram = table.tensors.get(&format!("{PREFIX}{name}"));
        let histogram = histogram.ok_or_else(|| CalibrationError::OtherTensors { tensor: name.clone() })?;
        let ranges = Method::ALL.map(|method| {
            let range = range(histogram, method, bits);
            (method, range, relative_error(histogram, range, bits))
        });
        Ok((name.clone(), Candidates { ranges, best: best(histogram, bits).0 }))
    };
    quantizer.tensors().iter().map(of_tensor).collect()
}

/// Keeps runs of layers that follow one another: step by step the run that brings most for what it costs beside those kept so
/// far, as long as all fit the budget and the network gets measurably better. Runs, because integers and floats that
/// alternate cost more than the floats themselves; what a run brings is taken for the sum of what its layers bring alone,
/// then measured. Returns what it all costs.
fn keep_layers(
    recipe: &mut Recipe,
    least: &mut f64,
    sensitivity: &[Sensitivity<'_>],
    budget: f64,
    cost: &dyn Fn(&Recipe) -> Result<f64>,
    error: &dyn Fn(&Recipe) -> Result<f64>,
) -> Result<f64> {
    let without_any = *least;
    let mut of_kept = 0.0;
    let mut refused: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    loop {
        let mut best: Option<(f64, f64, Recipe)> = None;
        for first in 0..sensitivity.len() {
            let mut changed = recipe.clone();
            let (mut gain, mut share) = (0.0, 0.0);
            for layer in &sensitivity[first..] {
                if !changed.keep.insert(layer.layer.name.clone()) {
                    continue;
                }
                gain += without_any - layer.error_without;
                share += layer.layer.share;
                // Values that no longer pass from integers to floats cannot pay for this much.
                if share > 2.0 * budget {
                    break;
                }
                if gain <= WORTH_LAYER * without_any || refused.contains(&changed.keep) {
                    continue;
                }
                let of_changed = cost(&changed)?;
                // A layer of few multiplications may do as much harm as one of many.
                let worth = gain / (of_changed - of_kept).max(1e-6);
                if of_changed <= budget && best.as_ref().is_none_or(|(other, ..)| worth > *other) {
                    best = Some((worth, of_changed, changed.clone()));
                }
            }
        }
        let Some((_, of_changed, changed)) = best else { return Ok(of_kept) };
        let error_of_changed = error(&changed)?;
        if error_of_changed < *least * (1.0 - WORTH_LAYER) {
            (*recipe, *least, of_kept) = (changed, error_of_changed, of_changed);
        } else {
            refused.insert(changed.keep);
        }
    }
}

/// Bias correction (M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, §4.2,
/// with means measured on frames): layer by layer, the mean of each channel is made that of fp32. Kept where the network gets
/// no worse. Batch statistics need no correction of their own: they are folded into these biases.
fn correct_biases(
    quantizer: &Quantizer,
    judge: &Judge<'_>,
    recipe: &mut Recipe,
    least: &mut f64,
    trial: &mut dyn FnMut(&'static str, usize, usize) -> Result<()>,
) -> Result<Vec<String>> {
    let what = "biases";
    let layers: Vec<&Layer> =
        quantizer.layers().iter().filter(|layer| layer.bias.is_some() && !recipe.keep.contains(&layer.name)).collect();
    let names: Vec<&str> = layers.iter().map(|layer| layer.name.as_str()).collect();
    let expected = judge.channel_means(&quantizer.prepared(), &names)?;
    let mut corrected = Vec::new();
    for (done, (layer, expected)) in layers.iter().zip(&expected).enumerate() {
        trial(what, done, layers.len())?;
        let (Some(name), Some(bias)) = (&layer.bias, quantizer.bias(layer, recipe)) else { continue };
        let got = judge.channel_means(&quantizer.build(recipe)?, &[&layer.name])?;
        let got = got.first().map_or(&[][..], Vec::as_slice);
        let values = bias.iter().zip(expected).zip(got).map(|((&bias, expected), got)| bias + (expected - got) as f32);
        let mut changed = recipe.clone();
        changed.biases.insert(name.clone(), values.collect());
        let of_changed = judge.error(&quantizer.build(&changed)?, Half::Search)?;
        if of_changed < *least * (1.0 - WORTH_METHOD) {
            (*recipe, *least) = (changed, of_changed);
            corrected.push(layer.name.clone());
        }
    }
    Ok(corrected)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a folder says about its network makes that network again.
    #[test]
    fn the_shipped_recipe_makes_the_shipped_network() {
        use models::manifest::{ModelFolder, Precision, QUANTIZATION};
        use models::onnx::{Storage, write};
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/zoo/camvid-r18");
        let folder = ModelFolder::open(&path).unwrap();
        let text = std::fs::read(path.join(QUANTIZATION)).unwrap();
        let quantization: Quantization = serde_json::from_slice(&text).unwrap();
        assert_eq!(quantization.model_hash, folder.model_hash());
        let network = folder.embedding_path(Precision::Fp32).unwrap();
        let quantizer = Quantizer::load(&network, ("image", &[1, 3, 360, 480])).unwrap();
        let (graph, weights) = quantizer.build(&quantization.recipe()).unwrap();
        let bytes = write(&graph, &weights, Storage::Full).unwrap();
        assert!(bytes == std::fs::read(folder.embedding_path(Precision::Int8).unwrap()).unwrap());
    }
}
