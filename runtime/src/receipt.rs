//! `receipt.int8.json`: what says how good an int8 network is. `hsg-calibrate report` writes it; without one that belongs to the
//! network at hand and missed no limit, an int8 network is not run.

use models::manifest::{ModelFolder, Precision, RECEIPT, embedding_file};
use serde::{Deserialize, Serialize};

use crate::error::PipelineError;

/// Version of the receipt that this program reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// The part of a receipt that decides whether a network is run; the file has more (crate `calibration`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ReceiptHeader {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Hash of the model that the network was made from.
    pub model_hash: String,
    /// SHA-256 of `embedding.int8.onnx`.
    pub embedding_int8_sha256: String,
    /// Limits that were missed, in words; empty = all were met.
    pub limits_missed: Vec<String>,
}

/// Refuses an int8 network without a receipt, with that of another network, or with one that says a limit was missed.
///
/// # Errors
/// [`PipelineError::Unverified`], [`PipelineError::Model`] when the receipt cannot be read, and
/// [`PipelineError::Mismatch`] when the folder has no int8 network.
pub fn check(folder: &ModelFolder) -> Result<(), PipelineError> {
    let path = folder.path().join(RECEIPT);
    let name = embedding_file(Precision::Int8);
    let Some(network) = folder.manifest().files.get(&name) else {
        return Err(PipelineError::Mismatch {
            path: folder.path().to_owned(),
            what: "the embedding network in int8".to_owned(),
            expected: format!("a file {name} listed in model.toml"),
            got: "none".to_owned(),
            remedy: "make it with `hsg-calibrate quantize`, or choose another --precision",
        });
    };
    let refuse =
        |reason: String| Err(PipelineError::Unverified { path: path.clone(), model: folder.path().to_owned(), reason });
    if !folder.manifest().files.contains_key(RECEIPT) {
        return refuse("expected a receipt that says what int8 costs, got none".to_owned());
    }
    let header: ReceiptHeader = match serde_json::from_slice(&models::files::read_file(&path)?) {
        Ok(header) => header,
        Err(error) => return refuse(format!("expected a receipt, got something else ({error})")),
    };
    if header.format_version != FORMAT_VERSION {
        return refuse(format!("expected a receipt of format {FORMAT_VERSION}, got {}", header.format_version));
    }
    if header.model_hash != folder.model_hash() {
        return refuse(format!(
            "expected the receipt of the model {}, got that of {}",
            folder.model_hash(),
            header.model_hash
        ));
    }
    if header.embedding_int8_sha256 != *network {
        return refuse(format!(
            "expected the receipt of {name} with SHA-256 {network}, got that of {}",
            header.embedding_int8_sha256
        ));
    }
    if !header.limits_missed.is_empty() {
        return refuse(format!("the receipt says that int8 missed a limit: {}", header.limits_missed.join("; ")));
    }
    Ok(())
}
