//! Networks as data: this crate owns the architecture.
//!
//! - [`graph`]: a network is a [`graph::Graph`] of ONNX-named operators; nothing here executes one.
//! - [`arch`]: functions that return graphs: ResNets, the embedding network, the clustering transformer.
//! - [`params`], [`weights`]: names, shapes and initial values derived from a graph; safetensors files.
//! - [`checkpoint`]: files of PyTorch's `torch.save`, and what of them fits a network.
//! - [`passes`]: graph → graph: strip training operators, fold batch normalisation, fp16, int8.
//! - [`onnx`]: graph ⇄ ONNX, the same bytes every time.
//! - [`manifest`]: `model.toml` and the model folder; [`export`] writes one, [`zoo`] makes the tiny test model.

pub mod arch;
pub mod checkpoint;
mod error;
pub mod export;
pub mod files;
pub mod graph;
pub mod manifest;
pub mod onnx;
pub mod params;
pub mod passes;
pub mod weights;
pub mod zoo;

pub use error::{ModelError, Result};
