//! Writes every form of a network that the passes can make, for others to check: `cargo xtask parity` gives them to ONNX's
//! own checker. The activation ranges are made up, so these files are no models to drive with.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

use models::onnx::{Storage, read, write};
use models::passes::quantize::{ActivationRange, Form, Ranges, insert_qdq, tensors_to_observe};
use models::passes::{expose_activations, fold_batch_norm, prepare_for_quantization, strip_training, to_fp16};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let Some((out, networks)) = arguments.split_first() else {
        return Err("usage: forms OUT NETWORK.onnx...".into());
    };
    std::fs::create_dir_all(out)?;
    for (number, network) in networks.iter().enumerate() {
        forms(network, &out.join(number.to_string()))?;
    }
    Ok(())
}

fn forms(network: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let (mut graph, mut weights) = read(&std::fs::read(network)?, network)?;
    let save = |name: &str, graph: &_, weights: &_| -> Result<(), Box<dyn Error>> {
        let path = PathBuf::from(format!("{}.{name}.onnx", out.display()));
        Ok(std::fs::write(path, write(graph, weights, Storage::Full)?)?)
    };
    strip_training(&mut graph);
    fold_batch_norm(&mut graph, &mut weights)?;
    save("folded", &graph, &weights)?;
    {
        let (mut graph, mut weights) = (graph.clone(), weights.clone());
        to_fp16(&mut graph, &mut weights)?;
        save("fp16", &graph, &weights)?;
    }
    prepare_for_quantization(&mut graph, &mut weights)?;
    save("prepared", &graph, &weights)?;
    let names = tensors_to_observe(&graph, &BTreeSet::new())?;
    {
        let mut graph = graph.clone();
        expose_activations(&mut graph, names.iter().map(String::as_str))?;
        save("exposed", &graph, &weights)?;
    }
    let tensors: BTreeMap<_, _> = names.into_iter().map(|n| (n, ActivationRange { min: -4.0, max: 6.0 })).collect();
    let ranges = Ranges { model_sha256: String::new(), tensors };
    for (name, form) in
        [("int8-cpu", Form::Cpu), ("int8-tensorrt8", Form::TensorRt8), ("int8-tensorrt10", Form::TensorRt10)]
    {
        let (mut graph, mut weights) = (graph.clone(), weights.clone());
        insert_qdq(&mut graph, &mut weights, &ranges, form, &BTreeSet::new())?;
        save(name, &graph, &weights)?;
    }
    Ok(())
}
