//! Tensors by name, and their safetensors files.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::files::{read_file, write_atomically};
use crate::params::ParamSpec;
use crate::{ModelError, Result};

/// A dense row-major tensor of 32-bit floats.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Tensor {
    /// Lengths of the axes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The values; as many as the product of the shape.
    pub values: Vec<f32>,
}

/// Tensors by name, in sorted order so that files are the same from run to run.
pub type Weights = BTreeMap<String, Tensor>;

/// Reads all floating-point tensors (F32, F16, BF16 → f32) of a safetensors file; integer tensors, such as
/// PyTorch's `num_batches_tracked`, are left out.
///
/// # Errors
/// [`ModelError::File`] when the file cannot be read, [`ModelError::Format`] when it is not safetensors.
pub fn read_safetensors(path: &Path) -> Result<Weights> {
    let bytes = read_file(path)?;
    let format = |what: String| ModelError::Format {
        path: path.to_owned(),
        what,
        remedy: "the file is damaged or was not written by this program; use another copy".into(),
    };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format(format!("not a whole safetensors file: {e}")))?;
    let mut weights = Weights::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => continue,
        };
        weights.insert(name, Tensor { shape: view.shape().to_vec(), values });
    }
    Ok(weights)
}

/// Writes tensors as F32 safetensors, names sorted, to a temporary file that is then renamed.
///
/// # Errors
/// [`ModelError::File`] when the file cannot be written.
pub fn write_safetensors(path: &Path, weights: &Weights) -> Result<()> {
    let views = weights.iter().map(|(name, tensor)| {
        let bytes: &[u8] = bytemuck::cast_slice(&tensor.values);
        TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let views: Vec<_> = views.collect::<std::result::Result<_, _>>().map_err(|e| ModelError::Format {
        path: path.to_owned(),
        what: format!("a tensor's values do not fill its shape: {e}"),
        remedy: "this is a bug; please report it".into(),
    })?;
    let bytes = safetensors::serialize(views, None).map_err(|e| ModelError::Format {
        path: path.to_owned(),
        what: e.to_string(),
        remedy: "this is a bug; please report it".into(),
    })?;
    write_atomically(path, &bytes)
}

/// Checks that `weights` holds every parameter with its shape and only finite numbers.
///
/// # Errors
/// [`ModelError::Weights`] naming the first parameter that is missing, has another shape (a checkpoint of another
/// architecture), or holds NaN or an infinity.
pub fn check_weights(params: &[ParamSpec], weights: &Weights, origin: &str) -> Result<()> {
    let fail = |name: &str, what: String| {
        Err(ModelError::Weights { origin: origin.to_owned(), tensor: name.to_owned(), what })
    };
    for param in params {
        let Some(tensor) = weights.get(&param.name) else {
            return fail(&param.name, format!("is missing; expected shape {:?}", param.shape));
        };
        if tensor.shape != param.shape {
            return fail(&param.name, format!("has shape {:?}, expected {:?}", tensor.shape, param.shape));
        }
        if let Some(at) = tensor.values.iter().position(|v| !v.is_finite()) {
            return fail(&param.name, format!("holds {} at element {at}", tensor.values[at]));
        }
    }
    Ok(())
}
