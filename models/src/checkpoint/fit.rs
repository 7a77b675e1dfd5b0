//! Tensors of a file → weights of a network, and the network that a file belongs to.

use std::collections::{BTreeMap, BTreeSet};

use super::{Container, ElementType, StoredTensor, TensorFile, format_error};
use crate::arch::{Backbone, NetworkSpec};
use crate::params::ParamSpec;
use crate::weights::{Weights, check_weights};
use crate::{ModelError, Result};

/// Keys that training programs wrap state dictionaries in, and what `DataParallel` and Lightning put before names.
/// Stripped from the front of a name as often as they come; no parameter of ours begins with one.
const WRAPPERS: &[&str] = &["module", "model", "state_dict", "embedding_model", "prediction_model"];
/// Names in a message, the rest is counted.
const SHOWN: usize = 10;
/// Most bytes of weights for each byte of the file: 4 would be 8-bit storages, the rest is for shared ones.
const MAX_GROWTH: usize = 8;
/// Most groups of a level: more than any grid of base segments has.
const MAX_GROUPS: usize = 4096;
/// Channels of the published ResNets' first stage; each later stage has twice as many.
const BASE_CHANNELS: usize = 64;

/// A tensor of the file that the network has no use for.
#[derive(Clone, Debug, PartialEq)]
pub struct Left {
    /// Its whole name in the file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Type of its elements.
    pub element: ElementType,
}

impl Left {
    /// Batches that a batch normalisation has seen: in every state dictionary, and of no use after training.
    pub fn is_counter(&self) -> bool {
        self.name.ends_with("num_batches_tracked")
    }
}

/// What became of a file's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct FitReport {
    /// Format of the file.
    pub container: Container,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Parameters found; as many as the network has.
    pub used: usize,
    /// Prefixes that were taken off the names of used tensors (with the dot at the end; "" for none), and how many
    /// tensors had them.
    pub stripped: BTreeMap<String, usize>,
    /// Types other than float32 that were converted, and how many tensors had them.
    pub converted: BTreeMap<String, usize>,
    /// Tensors without a place in the network, in the order of the file: counters, memory banks, optimiser state.
    pub extra: Vec<Left>,
    /// Python classes and functions in the file that were not run, see [`TensorFile::foreign`].
    pub foreign: BTreeSet<String>,
}

impl std::fmt::Display for FitReport {
    /// Some lines for people: what was used, stripped, left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} file, {} tensors used", self.container, self.used)?;
        let counts = |map: &BTreeMap<String, usize>| {
            let counts = map.iter().filter(|(key, _)| !key.is_empty());
            counts.map(|(key, count)| format!("{key} ({count})")).collect::<Vec<_>>().join(", ")
        };
        let (stripped, converted) = (counts(&self.stripped), counts(&self.converted));
        if !stripped.is_empty() {
            write!(f, "\nprefixes taken off: {stripped}")?;
        }
        if !converted.is_empty() {
            write!(f, "\nconverted to float32: {converted}")?;
        }
        let (counters, extra): (Vec<&Left>, Vec<&Left>) = self.extra.iter().partition(|left| left.is_counter());
        if !counters.is_empty() {
            write!(f, "\nleft out: {} counters of batch normalisation (num_batches_tracked)", counters.len())?;
        }
        if !extra.is_empty() {
            let names = extra.iter().map(|left| format!("{} {:?}", left.name, left.shape));
            write!(f, "\nleft out, not part of the network: {}", first_of(names))?;
        }
        if !self.foreign.is_empty() {
            write!(f, "\nPython objects left out, nothing was run: {}", first_of(self.foreign.iter().cloned()))?;
        }
        Ok(())
    }
}

/// "3: a, b, c" or "12: a, …, j and 2 more"
fn first_of(items: impl ExactSizeIterator<Item = String>) -> String {
    let count = items.len();
    let shown: Vec<String> = items.take(SHOWN).collect();
    let more = match count.saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    format!("{count}: {}{more}", shown.join(", "))
}

/// Splits a name into the wrappers before it and the rest.
fn unwrap_name(name: &str) -> (&str, &str) {
    let mut rest = name;
    while let Some((first, after)) = rest.split_once('.') {
        if !WRAPPERS.contains(&first) {
            break;
        }
        rest = after;
    }
    name.split_at(name.len() - rest.len())
}

/// The weights of a network with parameters `params`, out of a file.
///
/// Names match when they are equal after wrappers such as `module.` and `embedding_model.` are taken off the front.
/// What the network has no place for is left out and reported.
///
/// # Errors
/// [`ModelError::Format`] when parameters are missing, of another shape, or there twice (the first ten are named), or
/// when the file is too small for what it claims to hold; [`ModelError::Weights`] for NaN and infinities.
pub fn fit(params: &[ParamSpec], file: &TensorFile) -> Result<(Weights, FitReport)> {
    let wanted: BTreeMap<&str, &ParamSpec> = params.iter().map(|param| (param.name.as_str(), param)).collect();
    let mut found: BTreeMap<&str, &StoredTensor> = BTreeMap::new();
    let (mut stripped, mut converted): (BTreeMap<String, usize>, BTreeMap<String, usize>) = Default::default();
    let mut extra = Vec::new();
    for tensor in file.tensors() {
        let (prefix, name) = unwrap_name(&tensor.name);
        if !wanted.contains_key(name) {
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            extra.push(Left { name, shape, element: tensor.element });
            continue;
        }
        if let Some(first) = found.get(name) {
            if first.is_same_as(tensor) {
                continue;
            }
            let what = format!(
                "expected each parameter once, got `{name}` twice: as `{}` and as `{}`",
                first.name, tensor.name
            );
            return Err(format_error(file.path(), what, "save one of the networks that the file holds alone"));
        }
        found.insert(name, tensor);
        *stripped.entry(prefix.to_owned()).or_default() += 1;
        if tensor.element != ElementType::F32 {
            *converted.entry(tensor.element.to_string()).or_default() += 1;
        }
    }
    check_found(params, &found, file, &extra)?;
    let bytes = params.iter().map(|p| p.shape.iter().product::<usize>()).fold(0usize, usize::saturating_add);
    if bytes.saturating_mul(size_of::<f32>()) > file.size().saturating_mul(MAX_GROWTH) {
        let what =
            format!("expected a file that holds {bytes} numbers, got {} bytes, used again and again", file.size());
        return Err(format_error(file.path(), what, "save the network's `state_dict()` again"));
    }
    let mut weights = Weights::new();
    for (name, tensor) in &found {
        weights.insert((*name).to_owned(), file.values(tensor)?);
    }
    check_weights(params, &weights, &file.path().display().to_string())?;
    let report = FitReport {
        container: file.container(),
        sha256: file.sha256(),
        used: found.len(),
        stripped,
        converted,
        extra,
        foreign: file.foreign().clone(),
    };
    Ok((weights, report))
}

/// Missing and mis-shaped parameters, all in one message.
fn check_found(
    params: &[ParamSpec],
    found: &BTreeMap<&str, &StoredTensor>,
    file: &TensorFile,
    extra: &[Left],
) -> Result<()> {
    let missing: Vec<&ParamSpec> = params.iter().filter(|p| !found.contains_key(p.name.as_str())).collect();
    let misshaped: Vec<(&ParamSpec, &StoredTensor)> = params
        .iter()
        .filter_map(|param| Some((param, *found.get(param.name.as_str())?)))
        .filter(|(param, tensor)| param.shape != tensor.shape)
        .collect();
    if missing.is_empty() && misshaped.is_empty() {
        return Ok(());
    }
    let mut what = format!("expected the {} tensors of this network", params.len());
    if !misshaped.is_empty() {
        let shapes = misshaped.iter().map(|(p, t)| format!("`{}` {:?} instead of {:?}", p.name, t.shape, p.shape));
        what += &format!("; of another shape {}", first_of(shapes));
    }
    let mut remedy = "check that the file is of this network: backbone, width, embedding size and levels".to_owned();
    if !missing.is_empty() {
        let names = missing.iter().map(|p| format!("`{}` {:?}", p.name, p.shape));
        what += &format!("; missing {}", first_of(names));
        if missing.iter().all(|p| is_grouping(&p.name)) {
            what += "; the backbone is whole";
            remedy = "give a checkpoint of the whole HSG network: without its levels there is no hierarchy".to_owned();
        } else if found.is_empty() {
            let names = extra.iter().map(|left| format!("`{}`", left.name));
            what += &format!("; the file has {}", first_of(names));
        }
        if found.is_empty() && is_optimiser(file) {
            remedy = OF_OPTIMISER.to_owned();
        }
        what += &not_run(file);
    }
    Err(format_error(file.path(), what, remedy))
}

/// The remedy for a file of an optimiser.
const OF_OPTIMISER: &str = "this looks like an optimiser's state: give the file of the model beside it";

fn is_optimiser(file: &TensorFile) -> bool {
    file.tensors().iter().any(|t| t.name.contains("momentum_buffer") || t.name.contains("exp_avg"))
}

/// What was left out because it would have to be run, for messages about what is missing.
fn not_run(file: &TensorFile) -> String {
    match file.foreign().is_empty() {
        true => String::new(),
        false => format!("; Python objects in it were not run, {}", first_of(file.foreign().iter().cloned())),
    }
}

/// Of the levels, not of backbone and head.
fn is_grouping(name: &str) -> bool {
    name.starts_with("pos_embed.") || name.contains("_hrchy_transformer.") || name.contains("_query_embed.")
}

/// The network that a file holds, from the names and shapes of its tensors: backbone by its blocks, width factor by
/// the channels of its stages, embedding size by the head, levels by the query embeddings.
///
/// Only the tensors that say so are looked at; [`fit`] checks all others.
///
/// # Errors
/// [`ModelError::Format`] when the file says nothing, or something that is no network of this program.
pub fn infer_network(file: &TensorFile) -> Result<NetworkSpec> {
    const REMEDY: &str = "give a checkpoint of a whole HSG network, and its settings with --config if they are unusual";
    // Shapes that the file holds no numbers for say nothing.
    let honest = file.tensors().iter().filter(|tensor| !tensor.is_larger_than_stored());
    let names: BTreeMap<&str, &StoredTensor> = honest.map(|tensor| (unwrap_name(&tensor.name).1, tensor)).collect();
    let fail = |what: String| {
        let remedy = if is_optimiser(file) && !names.contains_key("conv_out.3.weight") { OF_OPTIMISER } else { REMEDY };
        format_error(file.path(), what + &not_run(file), remedy)
    };
    // First axis: outputs of a convolution, number of queries.
    let first_axis = |name: &str| names.get(name).and_then(|tensor| tensor.shape.first().copied());
    let needed = |name: &str| {
        first_axis(name).filter(|&n| n > 0).ok_or_else(|| {
            let some = file.tensors().iter().map(|tensor| format!("`{}`", tensor.name));
            let some: Vec<String> = some.collect();
            fail(format!(
                "expected a tensor `{name}`, which tells the network's shape; the file has {}",
                first_of(some.into_iter())
            ))
        })
    };
    let stage = |s: usize| format!("resnet_backbone.res{}", s + 2);
    let mut channels = [0; 4];
    for (s, channels) in channels.iter_mut().enumerate() {
        *channels = needed(&format!("{}.0.conv1.weight", stage(s)))?;
    }
    let blocks = [0, 1, 2, 3].map(|s| {
        let has = |block: &usize| names.contains_key(format!("{}.{block}.conv1.weight", stage(s)).as_str());
        (0..).take_while(has).count()
    });
    let is_bottleneck = names.contains_key("resnet_backbone.res2.0.conv3.weight");
    let backbone = match (is_bottleneck, blocks) {
        (false, [2, 2, 2, 2]) => Backbone::ResNet18,
        (false, [3, 4, 6, 3]) => Backbone::ResNet34,
        (true, [3, 4, 6, 3]) => Backbone::ResNet50,
        (_, blocks) => {
            let kind = if is_bottleneck { "bottleneck" } else { "basic" };
            return Err(fail(format!(
                "expected a ResNet-18, -34 or -50, got {blocks:?} {kind} blocks in the stages of the backbone"
            )));
        }
    };
    let width_factor = width_factor(&channels)
        .ok_or_else(|| fail(format!("expected stages whose channels double from one to the next, got {channels:?}")))?;
    let embedding_dim = needed("conv_out.3.weight")?;
    let queries = |prefix: &str| first_axis(&format!("{prefix}_query_embed._query_embedding.weight"));
    let numbered: Vec<usize> = (1..).map_while(|level| queries(&format!("level{level}"))).collect();
    let groups = match (queries("fine"), queries("coarse"), numbered.is_empty()) {
        (Some(fine), Some(coarse), true) => vec![fine, coarse],
        (None, None, false) => numbered,
        (None, None, true) => {
            return Err(fail(
                "expected query embeddings, which tell the levels' groups, got a network without levels".to_owned(),
            ));
        }
        _ => {
            return Err(fail(
                "expected query embeddings of `fine` and `coarse` or of `level1`, `level2`, …, got parts of both"
                    .into(),
            ));
        }
    };
    if groups.iter().any(|&groups| groups > MAX_GROUPS) {
        return Err(fail(format!("expected at most {MAX_GROUPS} groups at each level, got {groups:?}")));
    }
    let spec = NetworkSpec { backbone, width_factor, embedding_dim, groups };
    match spec.validate() {
        Ok(()) => Ok(spec),
        Err(ModelError::Invalid { what, expected, got }) => Err(fail(format!("expected {what} {expected}, got {got}"))),
        Err(other) => Err(other),
    }
}

/// A width factor that gives the four stages these channels; the simplest one, since several do.
fn width_factor(channels: &[usize; 4]) -> Option<f64> {
    let gives = |factor: f64| (0..4).all(|s| ((BASE_CHANNELS << s) as f64 * factor).round() as usize == channels[s]);
    let exact = channels[0] as f64 / BASE_CHANNELS as f64;
    if gives(exact) {
        return Some(exact);
    }
    // Channels were rounded: the decimal number with the fewest digits.
    let near = channels[3] as f64 / (BASE_CHANNELS << 3) as f64;
    let decimals = (1..=6).map(|digits| 10f64.powi(digits)).flat_map(|scale| {
        let middle = (near * scale).round();
        [middle, middle - 1.0, middle + 1.0].map(|numerator| numerator / scale)
    });
    decimals.into_iter().find(|&factor| gives(factor))
}
