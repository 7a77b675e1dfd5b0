//! From a model folder to the ONNX bytes that TensorRT is given, and the shapes that it has to serve.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use models::files::{read_file, sha256_hex};
use models::graph::{Dim, Graph};
use models::manifest::{Manifest, ModelFolder, Precision};
use models::onnx::{Storage, read, write};
use models::passes::quantize::Form;
use models::passes::{insert_qdq, prepare_for_quantization, recover_ranges, to_fp16};
use models::weights::Weights;

use super::engine_file::ShapeRange;
use crate::backend::{BackendError, BackendErrorKind, NetworkKind};

/// A network as TensorRT is given it.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedNetwork {
    /// The file that it came from.
    pub source: PathBuf,
    /// ONNX bytes.
    pub onnx: Vec<u8>,
    /// Their SHA-256.
    pub sha256: String,
    /// Inputs that vary.
    pub shapes: BTreeMap<String, ShapeRange>,
    /// Whether one run may take several frames: the first axis of its image varies, as in every file that `hsg-train export`
    /// writes. The others (height and width) do in any case.
    pub takes_batches: bool,
    /// What the bytes are in: fp16 where a model has no int8 file of this network.
    pub precision: Precision,
}

impl PreparedNetwork {
    /// To be built for runs of 1 to `most` frames, tuned for `most`. Where the first axis does not vary nothing changes: it
    /// then takes frame by frame.
    #[must_use]
    pub fn for_batches(mut self, most: usize) -> Self {
        for range in self.shapes.values_mut().filter(|_| self.takes_batches) {
            range.best[0] = most.max(1);
            range.most[0] = most.max(1);
        }
        self
    }
}

/// The form of int8 that this major version of TensorRT takes.
fn form(major: u32) -> Form {
    if major < 10 { Form::TensorRt8 } else { Form::TensorRt10 }
}

fn refused(path: &Path, what: impl std::fmt::Display) -> BackendError {
    BackendError::new(BackendErrorKind::Load, format!("{}: {what}", path.display()))
}

/// Makes the bytes for TensorRT of this major version.
///
/// fp32 and fp16 files of the folder go as they are; without an fp16 file one is made of the fp32 file. int8 is made of the
/// fp32 file with the ranges, biases and exceptions of the folder's int8 file, which is the CPU's form. A grouping network
/// without int8 file stays fp16.
///
/// # Errors
/// [`BackendErrorKind::Load`] naming the file: missing, damaged, or an int8 file without Q and DQ.
pub fn prepare(
    folder: &ModelFolder,
    kind: NetworkKind,
    precision: Precision,
    major: u32,
) -> Result<PreparedNetwork, BackendError> {
    let file = |precision| kind.path(folder, precision);
    let full = || {
        file(Precision::Fp32)
            .ok_or_else(|| refused(folder.path(), format!("has no {kind} network in fp32; export the model again")))
    };
    let (source, onnx, precision) = match (precision, file(precision)) {
        (Precision::Int8, Some(quantized)) => {
            let source = full()?;
            (quantized.clone(), int8_for(&source, &quantized, form(major))?, Precision::Int8)
        }
        (Precision::Int8, None) if kind == NetworkKind::Embedding => {
            return Err(refused(
                folder.path(),
                "has no embedding network in int8; make one with `hsg-calibrate quantize`, or use --precision fp16",
            ));
        }
        (Precision::Fp32 | Precision::Fp16, Some(path)) => {
            let bytes = read_file(&path).map_err(|error| refused(&path, error))?;
            (path, bytes, precision)
        }
        (Precision::Fp32, None) => {
            full()?;
            return Err(refused(folder.path(), "has no network in fp32"));
        }
        (Precision::Fp16 | Precision::Int8, None) => match file(Precision::Fp16) {
            Some(path) => {
                let bytes = read_file(&path).map_err(|error| refused(&path, error))?;
                (path, bytes, Precision::Fp16)
            }
            None => {
                let source = full()?;
                let bytes = fp16_of(&source)?;
                (source, bytes, Precision::Fp16)
            }
        },
    };
    let (shapes, takes_batches) = shapes(folder.manifest(), &source, &onnx)?;
    Ok(PreparedNetwork { sha256: sha256_hex(&onnx), source, onnx, shapes, takes_batches, precision })
}

fn graph(path: &Path) -> Result<(Graph, Weights), BackendError> {
    let bytes = read_file(path).map_err(|error| refused(path, error))?;
    read(&bytes, path).map_err(|error| refused(path, error))
}

fn fp16_of(source: &Path) -> Result<Vec<u8>, BackendError> {
    let (mut graph, mut weights) = graph(source)?;
    to_fp16(&mut graph, &mut weights)
        .and_then(|()| write(&graph, &weights, Storage::Full))
        .map_err(|error| refused(source, error))
}

fn int8_for(source: &Path, quantized: &Path, form: Form) -> Result<Vec<u8>, BackendError> {
    let (mut prepared, mut weights) = graph(source)?;
    let (cpu_form, cpu_weights) = graph(quantized)?;
    prepare_for_quantization(&mut prepared, &mut weights).map_err(|error| refused(source, error))?;
    let recovered = recover_ranges(&prepared, &cpu_form, &cpu_weights).map_err(|error| refused(quantized, error))?;
    recovered
        .set_biases(&mut weights)
        .and_then(|()| insert_qdq(&mut prepared, &mut weights, &recovered.ranges, form, &recovered.keep))
        .and_then(|()| write(&prepared, &weights, Storage::Full))
        .map_err(|error| refused(quantized, error))
}

/// The image varies up to the model's input; it is padded to multiples, and a stream that is late gets smaller ones. One frame
/// at a time; the second value says whether there may be more.
fn shapes(manifest: &Manifest, path: &Path, onnx: &[u8]) -> Result<(BTreeMap<String, ShapeRange>, bool), BackendError> {
    let spec = &manifest.preprocessing;
    let (multiple, input) = (spec.multiple.max(1), spec.input);
    let up = |side: usize| side.div_ceil(multiple).max(1) * multiple;
    let (mut shapes, mut takes_batches) = (BTreeMap::new(), false);
    let (graph, _) = read(onnx, path).map_err(|error| refused(path, error))?;
    for info in graph.inputs {
        if info.dims.iter().all(|dim| matches!(dim, Dim::Fixed(_))) {
            continue;
        }
        if info.name != manifest.tensors.image || info.dims.len() != 4 {
            return Err(refused(path, format!("the input `{}` varies, expected only the image to", info.name)));
        }
        takes_batches = matches!(info.dims[0], Dim::Named(_));
        let most = vec![1, 3, up(input.height), up(input.width)];
        let range = ShapeRange { least: vec![1, 3, multiple, multiple], best: most.clone(), most };
        shapes.insert(info.name, range);
    }
    Ok((shapes, takes_batches))
}
