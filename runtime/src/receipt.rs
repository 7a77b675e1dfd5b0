//! `receipt.int8.json`: what says how good an int8 network is. `hsg-calibrate report` writes it; without one that belongs to the
//! network at hand and missed no limit, an int8 network is not run.

use models::manifest::{BANK, ModelFolder, Precision, RECEIPT, embedding_file, grouping_file};
use serde::{Deserialize, Serialize};

use crate::error::PipelineError;

/// Version of the receipt that this program reads and writes. Since 2 it covers the prototype bank.
pub const FORMAT_VERSION: u32 = 2;

/// A limit by its name in a receipt: frames, each by itself, that the other figures come from.
pub const FRAMES: &str = "frames that int8 was measured on";
/// Points of mIoU that int8 loses.
pub const MIOU_LOSS: &str = "mIoU that int8 loses, in points";
/// Pixels of int8 that keep the class.
pub const AGREEMENT: &str = "pixels of int8 with the class of fp32, in percent";
/// Of each level; the name says which before it.
pub const LEVEL_RATIO: &str = "disagreement of int8 over that of one grey level of noise";
/// Least frames, unless the person says otherwise. Twenty of CamVid test give the agreement of classes to about half a point.
pub const LEAST_FRAMES: u64 = 20;
/// Most points of mIoU that int8 may lose.
pub const MOST_MIOU_LOSS: f64 = 0.3;
/// Least percentage of the pixels that keep their class.
pub const LEAST_AGREEMENT: f64 = 98.5;
/// Most disagreement of a level over that under noise.
pub const MOST_LEVEL_RATIO: f64 = 2.0;

/// The part of a receipt that decides whether a network is run; the file has more (crate `calibration`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct ReceiptHeader {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Hash of the model that the network was made from.
    pub model_hash: String,
    /// SHA-256 of `embedding.int8.onnx`.
    pub embedding_int8_sha256: String,
    /// SHA-256 of `grouping.int8.onnx`; none where the grouping network has no int8 form.
    #[serde(default)]
    pub grouping_int8_sha256: Option<String>,
    /// SHA-256 of the prototype bank that named segments; none where there was no bank.
    #[serde(default)]
    pub bank_sha256: Option<String>,
    /// Limits that int8 missed, in words; empty = all were met.
    pub limits_missed: Vec<String>,
}

/// The limits that a receipt was made with.
#[derive(Deserialize)]
struct Stated {
    #[serde(default)]
    limits: Vec<StatedLimit>,
}

#[derive(Deserialize)]
struct StatedLimit {
    what: String,
    limit: f64,
}

impl StatedLimit {
    /// In words, if it allows more than the default.
    fn looser(&self) -> Option<String> {
        let default = match self.what.as_str() {
            FRAMES if self.limit < LEAST_FRAMES as f64 => LEAST_FRAMES as f64,
            MIOU_LOSS if self.limit > MOST_MIOU_LOSS => MOST_MIOU_LOSS,
            AGREEMENT if self.limit < LEAST_AGREEMENT => LEAST_AGREEMENT,
            what if what.ends_with(LEVEL_RATIO) && self.limit > MOST_LEVEL_RATIO => MOST_LEVEL_RATIO,
            _ => return None,
        };
        Some(format!("{}: {} instead of {default}", self.what, self.limit))
    }
}

/// Refuses an int8 network without a receipt, with that of another network, or with one that says a limit was missed; warns of
/// one with limits looser than the defaults, which it returns in words.
///
/// # Errors
/// [`PipelineError::Unverified`], [`PipelineError::Model`] when the receipt cannot be read, and
/// [`PipelineError::Mismatch`] when the folder has no int8 network.
pub fn check(folder: &ModelFolder) -> Result<Vec<String>, PipelineError> {
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
    let bytes = models::files::read_file(&path)?;
    let parsed = serde_json::from_slice(&bytes).and_then(|header| Ok((header, serde_json::from_slice(&bytes)?)));
    let (header, stated): (ReceiptHeader, Stated) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return refuse(format!("expected a receipt, got something else ({error})")),
    };
    if header.format_version != FORMAT_VERSION {
        return refuse(format!(
            "expected a receipt of format {FORMAT_VERSION}, which covers the bank as well, got {}",
            header.format_version
        ));
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
    let grouping_name = grouping_file(Precision::Int8);
    let grouping = folder.manifest().files.get(&grouping_name);
    let words = |hash: Option<&String>| hash.map_or("none".to_owned(), |hash| format!("one with SHA-256 {hash}"));
    if header.grouping_int8_sha256.as_ref() != grouping {
        return refuse(format!(
            "expected the receipt of a folder whose {grouping_name} is {}, got that of {}",
            words(grouping),
            words(header.grouping_int8_sha256.as_ref())
        ));
    }
    let bank = folder.manifest().files.get(BANK);
    if header.bank_sha256.as_ref() != bank {
        return refuse(format!(
            "expected the receipt of a folder whose {BANK} is {}, got that of {}",
            words(bank),
            words(header.bank_sha256.as_ref())
        ));
    }
    if !header.limits_missed.is_empty() {
        return refuse(format!("the receipt says that int8 missed a limit: {}", header.limits_missed.join("; ")));
    }
    let looser: Vec<String> = stated.limits.iter().filter_map(StatedLimit::looser).collect();
    if !looser.is_empty() {
        log::warn!(
            "{}: int8 was measured against looser limits than the defaults: {}; `hsg-calibrate report` without them says \
             whether it keeps the defaults",
            path.display(),
            looser.join("; ")
        );
    }
    Ok(looser)
}
