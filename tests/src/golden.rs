//! Reading golden files: safetensors with f32, i64 and u8 tensors.

use std::fs;

use safetensors::{Dtype, SafeTensors};

use crate::folders;

/// A tensor in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    /// Sizes of the axes; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<T>,
}

/// One golden file.
#[derive(Clone, Debug)]
pub struct Golden {
    name: String,
    bytes: Vec<u8>,
}

impl Golden {
    /// Opens `hsg/NAME.safetensors` of the golden folder, or prints why it is skipped.
    ///
    /// # Panics
    ///
    /// If the file is there but cannot be read.
    pub fn open(name: &str) -> Option<Self> {
        let path = folders::golden(&format!("hsg/{name}.safetensors"))?;
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Some(Self { name: name.to_owned(), bytes })
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tensors().names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// True if there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors().tensor(name).is_ok()
    }

    /// A float32 tensor.
    ///
    /// # Panics
    ///
    /// If it is missing or of another type; the same goes for [`Golden::i64`] and [`Golden::u8`].
    pub fn f32(&self, name: &str) -> Tensor<f32> {
        self.read(name, Dtype::F32, f32::from_le_bytes)
    }

    /// An int64 tensor.
    pub fn i64(&self, name: &str) -> Tensor<i64> {
        self.read(name, Dtype::I64, i64::from_le_bytes)
    }

    /// A uint8 tensor; masks are stored so.
    pub fn u8(&self, name: &str) -> Tensor<u8> {
        self.read(name, Dtype::U8, u8::from_le_bytes)
    }

    /// The one element of a float32 tensor.
    pub fn scalar(&self, name: &str) -> f32 {
        let tensor = self.f32(name);
        assert_eq!(tensor.data.len(), 1, "{}: {name} has shape {:?}, expected one element", self.name, tensor.shape);
        tensor.data[0]
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap_or_else(|error| panic!("golden {}: {error}", self.name))
    }

    fn read<T, const N: usize>(&self, name: &str, dtype: Dtype, from_bytes: fn([u8; N]) -> T) -> Tensor<T> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("golden {}: {name}: {error}", self.name));
        assert_eq!(view.dtype(), dtype, "golden {}: type of {name}", self.name);
        let chunks = view.data().chunks_exact(N);
        let data = chunks.map(|chunk| from_bytes(chunk.try_into().expect("chunks have N bytes"))).collect();
        Tensor { shape: view.shape().to_vec(), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_files_open() {
        let Some(golden) = Golden::open("kmeans_small") else {
            return;
        };
        let embeddings = golden.f32("embeddings");
        assert_eq!(embeddings.shape.len(), 4);
        assert_eq!(embeddings.shape.iter().product::<usize>(), embeddings.data.len());
        assert!(golden.contains("embeddings") && !golden.contains("no such tensor"));
    }

    #[test]
    fn the_copies_in_the_repository_are_complete() {
        for name in ["training_step", "retrieval_top20", "clustering_transformer_train", "schedule_step"] {
            assert!(folders::fixture(&format!("golden/hsg/{name}.safetensors")).is_file(), "{name}");
        }
    }
}
