//! An engine with what it was built from, in one file: it is there whole or not at all, and says for itself whether it is the
//! one that is wanted.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `HSGE` |
//! | 4 | version of this form, little-endian |
//! | 8 | length of the manifest |
//! | … | [`EngineManifest`] as JSON |
//! | … | the engine as TensorRT wrote it; its length and SHA-256 are in the manifest |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use models::files::sha256_hex;
use models::manifest::Precision;
use serde::{Deserialize, Serialize};

use crate::backend::{BackendError, BackendErrorKind};

/// How the file begins.
pub const MAGIC: [u8; 4] = *b"HSGE";
/// Version of the form.
pub const FORMAT_VERSION: u32 = 1;
/// Longest manifest: the build log in it has a bound as well.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;
/// Oldest GPUs that a hardware-compatible engine runs on: Ampere.
const COMPATIBLE_FROM: (i32, i32) = (8, 0);

/// Shapes of an input that varies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeRange {
    /// The least.
    pub least: Vec<usize>,
    /// What the engine is tuned for.
    pub best: Vec<usize>,
    /// The largest.
    pub most: Vec<usize>,
}

/// The GPU that an engine is built for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
}

/// What an engine must have been built from to be the one that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Name of the model, for people.
    pub model: String,
    /// The model hash.
    pub model_hash: String,
    /// `embedding` or `grouping`.
    pub network: String,
    /// SHA-256 of the ONNX bytes that TensorRT was given; those of int8 depend on more than the model hash.
    pub network_sha256: String,
    /// Number format.
    pub precision: Precision,
    /// Version of TensorRT.
    pub tensorrt: String,
    /// The GPU.
    pub gpu: Gpu,
    /// Whether it runs on every GPU from Ampere on.
    pub hardware_compatible: bool,
    /// Inputs that vary.
    pub shapes: BTreeMap<String, ShapeRange>,
}

impl Identity {
    /// Most frames that one run takes.
    pub fn max_batch(&self) -> usize {
        self.shapes.values().filter_map(|range| range.most.first().copied()).max().unwrap_or(1)
    }

    /// The same network for runs of up to `most` frames.
    #[must_use]
    pub fn for_batches(mut self, most: usize) -> Self {
        for range in self.shapes.values_mut() {
            for shape in [&mut range.best, &mut range.most] {
                shape.first_mut().into_iter().for_each(|frames| *frames = most);
            }
        }
        self
    }

    /// Why an engine of this identity is not the one `wanted`, in words; none if it is.
    pub fn difference(&self, wanted: &Self) -> Option<String> {
        let differ = |what: &str, expected: &dyn std::fmt::Display, got: &dyn std::fmt::Display| {
            Some(format!("it was built for {what} {got}, now it is {expected}"))
        };
        if self.model_hash != wanted.model_hash {
            return differ("the model", &wanted.model_hash, &self.model_hash);
        }
        if self.network != wanted.network {
            return differ("the network", &wanted.network, &self.network);
        }
        if self.precision != wanted.precision {
            return differ("the precision", &wanted.precision, &self.precision);
        }
        if self.network_sha256 != wanted.network_sha256 {
            return differ("a network file with SHA-256", &wanted.network_sha256, &self.network_sha256);
        }
        if self.tensorrt != wanted.tensorrt {
            return differ("TensorRT", &wanted.tensorrt, &self.tensorrt);
        }
        // One that takes more frames at once takes fewer, too: that is better than minutes of building.
        let enough = self.max_batch() >= wanted.max_batch();
        if !enough || self.clone().for_batches(1).shapes != wanted.clone().for_batches(1).shapes {
            return differ("inputs of", &shapes_text(&wanted.shapes), &shapes_text(&self.shapes));
        }
        if wanted.hardware_compatible && !self.hardware_compatible {
            return Some("it was built for one GPU, now --hardware-compatible asks for all from Ampere on".to_owned());
        }
        let fits =
            if self.hardware_compatible { wanted.gpu.capability >= COMPATIBLE_FROM } else { self.gpu == wanted.gpu };
        if fits { None } else { differ("the GPU", &gpu_text(&wanted.gpu), &gpu_text(&self.gpu)) }
    }
}

fn gpu_text(gpu: &Gpu) -> String {
    format!("{} (compute capability {}.{})", gpu.name, gpu.capability.0, gpu.capability.1)
}

fn shapes_text(shapes: &BTreeMap<String, ShapeRange>) -> String {
    if shapes.is_empty() {
        return "fixed shapes".to_owned();
    }
    let text = |(name, range): (&String, &ShapeRange)| {
        format!("`{name}` {:?} to {:?}, tuned for {:?}", range.least, range.most, range.best)
    };
    shapes.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// One layer of a built engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Its name; TensorRT joins the names of what it fuses.
    pub name: String,
    /// Its kind, in TensorRT's words.
    pub kind: String,
    /// Formats and data types of its results, in TensorRT's words.
    pub outputs: Vec<String>,
}

/// How a build went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildRecord {
    /// When, seconds since 1970.
    pub unix_seconds: u64,
    /// How long it took.
    pub seconds: f64,
    /// Version of this program.
    pub hsg: String,
    /// CUDA version of the driver.
    pub driver: String,
    /// Limit on a layer's own memory, bytes; none = all of the device's.
    pub workspace_bytes: Option<u64>,
    /// Device memory that every session takes for values in between.
    pub activation_bytes: u64,
    /// Layers as TensorRT tells them; empty if it did not.
    pub layers: Vec<Layer>,
    /// What TensorRT said, from info up.
    pub log: Vec<String>,
}

/// What stands before an engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineManifest {
    /// What it was built from.
    pub identity: Identity,
    /// Length of the engine.
    pub engine_bytes: u64,
    /// SHA-256 of the engine.
    pub engine_sha256: String,
    /// How the build went.
    pub build: BuildRecord,
}

impl EngineManifest {
    /// The manifest of an engine.
    pub fn new(identity: Identity, engine: &[u8], build: BuildRecord) -> Self {
        Self { identity, engine_bytes: engine.len() as u64, engine_sha256: sha256_hex(engine), build }
    }
}

fn damaged(path: &Path, what: impl std::fmt::Display) -> BackendError {
    BackendError::new(
        BackendErrorKind::Load,
        format!("{}: is no whole engine file: {what}; build it again with `hsg build`", path.display()),
    )
}

/// The bytes of a file.
///
/// # Errors
/// [`BackendErrorKind::Load`] for a manifest that is no JSON, which does not happen.
pub fn encode(manifest: &EngineManifest, engine: &[u8]) -> Result<Vec<u8>, BackendError> {
    let text = serde_json::to_vec(manifest).map_err(|error| {
        BackendError::new(BackendErrorKind::Load, format!("the manifest of an engine cannot be written: {error}"))
    })?;
    let mut bytes = Vec::with_capacity(16 + text.len() + engine.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&text);
    bytes.extend_from_slice(engine);
    Ok(bytes)
}

/// Opens a file and reads its manifest, checked against the file's length; the engine follows in the file.
fn open(path: &Path) -> Result<(EngineManifest, File), BackendError> {
    let cannot = |error: std::io::Error| {
        BackendError::new(
            BackendErrorKind::Load,
            format!("{}: cannot be read: {error}; check the path and its permissions", path.display()),
        )
    };
    let mut file = File::open(path).map_err(cannot)?;
    let total = file.metadata().map_err(cannot)?.len();
    let mut head = [0u8; 16];
    file.read_exact(&mut head).map_err(|_| damaged(path, format!("it has only {total} bytes")))?;
    let [magic, version, low, high] = [0, 4, 8, 12].map(|at| [head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if magic != MAGIC {
        return Err(damaged(path, "it does not begin with HSGE"));
    }
    let version = u32::from_le_bytes(version);
    if version != FORMAT_VERSION {
        return Err(damaged(path, format!("its form has version {version}, expected {FORMAT_VERSION}")));
    }
    let length = u64::from(u32::from_le_bytes(low)) | u64::from(u32::from_le_bytes(high)) << 32;
    if length > MAX_MANIFEST_BYTES || 16 + length > total {
        return Err(damaged(path, format!("its manifest should have {length} bytes, the file has {total}")));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(cannot)?;
    let manifest: EngineManifest =
        serde_json::from_slice(&text).map_err(|error| damaged(path, format!("its manifest: {error}")))?;
    let rest = total - 16 - length;
    if manifest.engine_bytes != rest {
        return Err(damaged(
            path,
            format!("its engine should have {} bytes, the file has {rest} for it", manifest.engine_bytes),
        ));
    }
    Ok((manifest, file))
}

/// Reads what stands before the engine.
///
/// # Errors
/// [`BackendErrorKind::Load`] when the file cannot be read, is cut, or its manifest is none.
pub fn read_manifest(path: &Path) -> Result<EngineManifest, BackendError> {
    open(path).map(|(manifest, _)| manifest)
}

/// Reads all of it and checks the engine's hash. Only such an engine may be given to TensorRT, which trusts its bytes.
///
/// # Errors
/// As [`read_manifest`], and when the hash is another.
pub fn read(path: &Path) -> Result<(EngineManifest, Vec<u8>), BackendError> {
    let (manifest, mut file) = open(path)?;
    let mut engine = Vec::with_capacity(usize::try_from(manifest.engine_bytes).unwrap_or(0));
    file.read_to_end(&mut engine).map_err(|error| damaged(path, error))?;
    let got = sha256_hex(&engine);
    if got != manifest.engine_sha256 {
        return Err(damaged(path, format!("SHA-256 of its engine: expected {}, got {got}", manifest.engine_sha256)));
    }
    Ok((manifest, engine))
}

/// Layers out of what TensorRT's inspector says; what it says otherwise than expected is left out.
pub fn layers_of(inspector_json: &str) -> Vec<Layer> {
    let value: serde_json::Value = serde_json::from_str(inspector_json).unwrap_or_default();
    let text = |value: &serde_json::Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let format = |output: &serde_json::Value| {
        // One key in older versions, two in newer ones.
        let parts = ["Format/Datatype", "Format", "Datatype"].map(|key| text(output, key));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    };
    let layers = value["Layers"].as_array().into_iter().flatten();
    layers
        .map(|layer| match layer.as_str() {
            // All that it tells of an engine that was built without details.
            Some(name) => Layer { name: name.to_owned(), kind: String::new(), outputs: Vec::new() },
            None => Layer {
                name: text(layer, "Name"),
                kind: text(layer, "LayerType"),
                outputs: layer["Outputs"].as_array().into_iter().flatten().map(format).collect(),
            },
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn identity() -> Identity {
        Identity {
            model: "camvid-r18".into(),
            model_hash: "aa".repeat(32),
            network: "embedding".into(),
            network_sha256: "bb".repeat(32),
            precision: Precision::Fp16,
            tensorrt: "10.3.0".into(),
            gpu: Gpu { name: "Orin".into(), capability: (8, 7) },
            hardware_compatible: false,
            shapes: BTreeMap::from([(
                "image".into(),
                ShapeRange { least: vec![1, 3, 8, 8], best: vec![1, 3, 360, 480], most: vec![1, 3, 360, 480] },
            )]),
        }
    }

    fn written(folder: &Path) -> (std::path::PathBuf, EngineManifest, Vec<u8>) {
        let engine: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let manifest = EngineManifest::new(identity(), &engine, BuildRecord::default());
        let path = folder.join("a.engine");
        std::fs::write(&path, encode(&manifest, &engine).unwrap()).unwrap();
        (path, manifest, engine)
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, manifest, engine) = written(folder.path());
        assert_eq!(read_manifest(&path).unwrap(), manifest);
        assert_eq!(read(&path).unwrap(), (manifest, engine));
    }

    /// Cut anywhere, or a byte changed anywhere: refused, and the message names the file and the remedy.
    #[test]
    fn a_damaged_file_is_never_read() {
        let folder = tempfile::tempdir().unwrap();
        let (path, ..) = written(folder.path());
        let whole = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8], what: &str| {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).expect_err(what);
            assert_eq!(error.kind(), BackendErrorKind::Load);
            let text = error.to_string();
            assert!(text.contains("a.engine") && text.contains("`hsg build`"), "{what}: {text}");
        };
        for cut in (0..whole.len()).step_by(37).chain([3, 15, 16, whole.len() - 1]) {
            refused(&whole[..cut], &format!("cut to {cut}"));
        }
        let manifest_end = 16 + whole.len() - 16 - 5000;
        // Within the manifest a changed letter may give another valid one, whose engine's hash is checked all the same.
        for at in (0..16).chain((manifest_end..whole.len()).step_by(91)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x41;
            refused(&bytes, &format!("byte {at} changed"));
        }
        let mut bytes = whole.clone();
        bytes.push(0);
        refused(&bytes, "a byte too many");
        // Lengths that no file has.
        let mut bytes = whole;
        bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        refused(&bytes, "a manifest of 16 exabytes");
        std::fs::remove_file(&path).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn every_difference_is_named() {
        let wanted = identity();
        assert_eq!(wanted.difference(&wanted), None);
        let change = |change: &dyn Fn(&mut Identity)| {
            let mut other = identity();
            change(&mut other);
            other.difference(&wanted).unwrap()
        };
        for (reason, words) in [
            (change(&|it| it.model_hash = "cc".into()), ["the model", "cc"]),
            (change(&|it| it.network = "grouping".into()), ["the network", "grouping"]),
            (change(&|it| it.network_sha256 = "dd".into()), ["network file", "dd"]),
            (change(&|it| it.precision = Precision::Int8), ["precision int8", "fp16"]),
            (change(&|it| it.tensorrt = "10.7.0".into()), ["TensorRT 10.7.0", "10.3.0"]),
            (change(&|it| it.gpu.name = "Thor".into()), ["Thor", "Orin"]),
            (change(&|it| it.gpu.capability = (8, 6)), ["8.6", "8.7"]),
            (change(&|it| it.shapes.clear()), ["fixed shapes", "480"]),
            (change(&|it| it.shapes.get_mut("image").unwrap().most[2] = 720), ["720", "360"]),
        ] {
            assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
        }
        // The name of the model is for people.
        let renamed = Identity { model: "other".into(), ..identity() };
        assert_eq!(renamed.difference(&wanted), None);
    }

    #[test]
    fn an_engine_for_more_frames_at_once_takes_fewer() {
        let (one, four) = (identity(), identity().for_batches(4));
        assert_eq!((one.max_batch(), four.max_batch()), (1, 4));
        assert_eq!((four.difference(&one), four.difference(&four.clone().for_batches(3))), (None, None));
        let reason = one.difference(&four).unwrap();
        assert!(reason.contains("[1, 3, 360, 480]") && reason.contains("[4, 3, 360, 480]"), "{reason}");
        // A network of fixed shapes takes what it takes.
        let fixed = Identity { shapes: BTreeMap::new(), ..identity() };
        assert_eq!((fixed.max_batch(), fixed.clone().for_batches(4)), (1, fixed));
    }

    #[test]
    fn hardware_compatible_engines_fit_other_gpus_from_ampere_on() {
        let built = Identity { hardware_compatible: true, ..identity() };
        let on = |name: &str, capability| Identity { gpu: Gpu { name: name.into(), capability }, ..identity() };
        assert_eq!(built.difference(&on("H100", (9, 0))), None);
        assert!(built.difference(&on("T4", (7, 5))).unwrap().contains("T4"));
        let wanted = Identity { hardware_compatible: true, ..identity() };
        assert!(identity().difference(&wanted).unwrap().contains("--hardware-compatible"));
    }

    #[test]
    fn layers_are_read_in_both_forms() {
        let text = r#"{"Layers": [
            {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "Inputs": [],
             "Outputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format"}]},
            {"Name": "norm", "LayerType": "kgen", "Outputs": [{"Name": "y", "Format": "Row major linear", "Datatype": "FP32"}]},
            "only a name"], "Bindings": ["image"]}"#;
        let layers = layers_of(text);
        let line = |layer: &Layer| format!("{}|{}|{}", layer.name, layer.kind, layer.outputs.join(","));
        assert_eq!(
            layers.iter().map(line).collect::<Vec<_>>(),
            [
                "conv1 + relu|CaskConvolution|Channel major FP16 format",
                "norm|kgen|Row major linear FP32",
                "only a name||"
            ]
        );
        assert_eq!(layers_of("no JSON"), []);
    }
}
