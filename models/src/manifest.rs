//! `model.toml` and the model folder: open, check hashes, find by name, rewrite.
//!
//! | file | content |
//! |---|---|
//! | `model.toml` | the [`Manifest`] |
//! | `embedding.<precision>.onnx` | image → unit features at stride 8 |
//! | `grouping.<precision>.onnx` | segment slots → transitions and centroids of all levels |
//! | `calibration.json` | what values the tensors take (`hsg-calibrate collect`); absent before `hsg-calibrate quantize` |
//! | `quantization.json` | how the int8 network was made: methods, layers kept, errors; likewise |
//! | `receipt.int8.json` | what int8 costs (`hsg-calibrate report`); int8 is not run without it |
//! | `bank.postcard` | prototypes (crate `retrieval`); may be absent |
//! | `classes.toml` | names and colours of the bank's classes, where they are of the user's own making |
//! | `CARD.md` | for people: what it is, what it learned from, what it may be used for |
//! | `training.jsonl` | losses of the training run, thinned out; absent in a model that was not trained |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use segcore::label_space::{CLASSES_FILE, ClassTable, LabelSpace};
use segcore::preprocess::{PreprocessError, PreprocessSpec};
use segcore::spherical_kmeans::KmeansSpec;
use serde::{Deserialize, Serialize};

use crate::arch::{NetworkSpec, OutputStride, POSITION_TABLE_ROWS, grouping::names};
use crate::files::{file_error, read_file, sha256_hex, temporary_beside, write_atomically};
use crate::graph::Dim;
use crate::{ModelError, Result, onnx};

/// Version of `model.toml` that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST: &str = "model.toml";
/// The prototype bank's file name.
pub const BANK: &str = "bank.postcard";
/// The model card's file name.
pub const CARD: &str = "CARD.md";
/// Activations observed on representative frames.
pub const CALIBRATION: &str = "calibration.json";
/// How the int8 network was made.
pub const QUANTIZATION: &str = "quantization.json";
/// What int8 costs.
pub const RECEIPT: &str = "receipt.int8.json";
/// Losses of the training run, one JSON object a line, thinned out.
pub const TRAINING_LOG: &str = "training.jsonl";

/// Number format of a network file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats; softmax, normalisation and outputs stay 32-bit.
    Fp16,
    /// 8-bit integers with fp32 scales (the CPU form).
    Int8,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        })
    }
}

/// Most k-means clusters (slots) of a model.
const MAX_SLOTS: usize = 4096;
/// Most rounds of k-means: far beyond convergence, far below a program that seems to hang.
const MAX_ROUNDS: usize = 1000;

/// The content of `model.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the model.
    pub name: String,
    /// Name of the label space of the bank: `camvid_11`, `cityscapes_19`, or that of the folder's `classes.toml`.
    pub label_space: String,
    /// What the training frames' licence allows, in words; shown by `hsg inspect`.
    pub license: String,
    /// Pixels of the network input per embedding cell.
    pub stride: usize,
    /// Rows of the position tables that training reached, T.
    pub position_extent: usize,
    /// Shapes of the network.
    pub network: NetworkSpec,
    /// How a frame becomes the network's input.
    pub preprocessing: PreprocessSpec,
    /// Base segments: grid and rounds of spherical k-means.
    pub kmeans: KmeansSpec,
    /// Levels above the base segments, fine to coarse.
    pub levels: Vec<LevelSpec>,
    /// Names and shapes of the tensors of the two networks.
    pub tensors: TensorNames,
    /// How the weights were made: command, seed, steps, frames, figures. Free text and numbers, for people.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub training: toml::Table,
    /// SHA-256 of every other file of the folder.
    pub files: BTreeMap<String, String>,
}

/// One level of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelSpec {
    /// Number of groups.
    pub groups: usize,
}

/// Names and shapes of the networks' inputs and outputs. Transitions and centroids are numbered from 1:
/// `transition_1`, `centroids_1`, ….
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorNames {
    /// `[1, 3, h, w]`.
    pub image: String,
    /// `[1, m, h/8, w/8]`.
    pub embedding: String,
    /// `[1, m, slots]`.
    pub features: String,
    /// `[1, 2·T, slots]`.
    pub positions: String,
    /// `[1, slots]`.
    pub valid: String,
    /// Shape of each of these and of the transitions and centroids; a name stands for an axis that varies. Folders
    /// of older programs have none; [`write_folder`] fills them in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shapes: BTreeMap<String, Vec<Dim>>,
}

impl Default for TensorNames {
    fn default() -> Self {
        use crate::arch::embedding_net;
        TensorNames {
            image: embedding_net::IMAGE.into(),
            embedding: embedding_net::EMBEDDING.into(),
            features: names::FEATURES.into(),
            positions: names::POSITIONS.into(),
            valid: names::VALID.into(),
            shapes: BTreeMap::new(),
        }
    }
}

/// An input or output that a network file must have.
struct NetworkTensor {
    /// Key in `[tensors]` and `[tensors.shapes]`.
    key: String,
    /// Name in the file.
    name: String,
    dims: Vec<Dim>,
}

impl Manifest {
    /// Clusters of k-means, which are the slots of the grouping network.
    pub fn num_slots(&self) -> usize {
        self.kmeans.num_slots()
    }

    /// Groups at levels 1, 2, ….
    pub fn groups(&self) -> Vec<usize> {
        self.levels.iter().map(|l| l.groups).collect()
    }

    /// Checks everything that later stages rely on and that the types alone do not bound.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming the key.
    pub fn validate(&self) -> Result<()> {
        let invalid = |key: &str, expected: &str, got: String| {
            let what = format!("{key} of {MANIFEST}");
            Err(ModelError::Invalid { what, expected: expected.to_owned(), got })
        };
        if self.format_version != FORMAT_VERSION {
            return invalid(
                "format_version",
                &format!("{FORMAT_VERSION} (another version of this program wrote the model: export it again)"),
                self.format_version.to_string(),
            );
        }
        match self.network.validate() {
            Err(ModelError::Invalid { what, expected, got }) => {
                return invalid(&format!("network.{what}"), &expected, got);
            }
            other => other?,
        }
        if self.network.groups != self.groups() {
            return invalid(
                "[[levels]]",
                &format!("{:?} as in [network]", self.network.groups),
                format!("{:?}", self.groups()),
            );
        }
        // The first level groups the slots, so there must be as many as groups.
        let (slots, least) = (self.num_slots(), self.network.groups[0]);
        if !(least..=MAX_SLOTS).contains(&slots) {
            let got = format!("{} × {}", self.kmeans.grid_rows, self.kmeans.grid_columns);
            return invalid("kmeans.grid_rows × kmeans.grid_columns", &format!("{least} to {MAX_SLOTS} clusters"), got);
        }
        if !(1..=MAX_ROUNDS).contains(&self.kmeans.rounds) {
            return invalid("kmeans.rounds", &format!("1 to {MAX_ROUNDS}"), self.kmeans.rounds.to_string());
        }
        match self.preprocessing.check() {
            Err(PreprocessError::InvalidSpec { field, expected, got }) => {
                return invalid(&format!("preprocessing.{field}"), expected, got);
            }
            Err(other) => return invalid("preprocessing", "valid values", other.to_string()),
            Ok(()) => {}
        }
        let stride = OutputStride::Test8.pixels();
        if self.stride != stride {
            return invalid("stride", &stride.to_string(), self.stride.to_string());
        }
        if !self.preprocessing.multiple.is_multiple_of(stride) {
            let expected = format!("a multiple of the stride {stride}");
            return invalid("preprocessing.multiple", &expected, self.preprocessing.multiple.to_string());
        }
        if !(1..=POSITION_TABLE_ROWS).contains(&self.position_extent) {
            return invalid(
                "position_extent",
                &format!("1 to {POSITION_TABLE_ROWS}"),
                self.position_extent.to_string(),
            );
        }
        if LabelSpace::by_name(&self.label_space).is_none() && !self.files.contains_key(CLASSES_FILE) {
            let expected = format!("camvid_11 or cityscapes_19, or any name with a file {CLASSES_FILE}");
            return invalid("label_space", &expected, self.label_space.clone());
        }
        for network in self.network_tensors() {
            for (index, tensor) in network.iter().enumerate() {
                if tensor.name.is_empty() || network[..index].iter().any(|other| other.name == tensor.name) {
                    let expected = "a name that no other tensor of its network has";
                    return invalid(&format!("tensors.{}", tensor.key), expected, format!("`{}`", tensor.name));
                }
            }
        }
        if !self.tensors.shapes.is_empty() {
            let (expected, got) = (self.tensor_shapes(), &self.tensors.shapes);
            if let Some(key) = expected.keys().chain(got.keys()).find(|&key| expected.get(key) != got.get(key)) {
                let text = |shape: Option<&Vec<Dim>>| shape.map_or("none".to_owned(), |dims| shape_text(dims));
                return invalid(&format!("tensors.shapes.{key}"), &text(expected.get(key)), text(got.get(key)));
            }
        }
        Ok(())
    }

    /// Shape of every input and output as the other sections decide it, by its key in `[tensors]`.
    pub fn tensor_shapes(&self) -> BTreeMap<String, Vec<Dim>> {
        self.network_tensors().into_iter().flatten().map(|tensor| (tensor.key, tensor.dims)).collect()
    }

    /// Inputs and outputs of the embedding network, then of the grouping network.
    fn network_tensors(&self) -> [Vec<NetworkTensor>; 2] {
        let tensor = |key: &str, name: &str, dims: Vec<Dim>| NetworkTensor { key: key.into(), name: name.into(), dims };
        let (m, slots, keys) = (self.network.embedding_dim, self.num_slots(), &self.tensors);
        let embedding = vec![
            tensor("image", &keys.image, vec!["batch".into(), 3.into(), "height".into(), "width".into()]),
            tensor(
                "embedding",
                &keys.embedding,
                vec!["batch".into(), m.into(), "cell_rows".into(), "cell_columns".into()],
            ),
        ];
        let mut grouping = vec![
            tensor("features", &keys.features, vec![1.into(), m.into(), slots.into()]),
            tensor("positions", &keys.positions, vec![1.into(), (2 * self.position_extent).into(), slots.into()]),
            tensor("valid", &keys.valid, vec![1.into(), slots.into()]),
        ];
        let mut below = slots;
        for (level, groups) in (1..).zip(self.groups()) {
            let (transition, centroids) = (names::transition(level), names::centroids(level));
            grouping.push(tensor(&transition, &transition, vec![1.into(), below.into(), groups.into()]));
            grouping.push(tensor(&centroids, &centroids, vec![1.into(), m.into(), groups.into()]));
            below = groups;
        }
        [embedding, grouping]
    }

    /// Compares the inputs and outputs of a file of the folder, if it is a network, with this manifest; named axes
    /// have any length.
    fn check_network(&self, path: &Path, file: &str, bytes: &[u8]) -> Result<()> {
        let [embedding, grouping] = self.network_tensors();
        let expected = match file.strip_suffix(".onnx").and_then(|name| name.split_once('.')) {
            Some(("embedding", _)) => embedding,
            Some(("grouping", _)) => grouping,
            _ => return Ok(()),
        };
        let found = onnx::signature(bytes, path)?;
        let differ = |(a, b): (&Dim, &Dim)| matches!((a, b), (Dim::Fixed(a), Dim::Fixed(b)) if a != b);
        for NetworkTensor { key, name, dims } in expected {
            let got = found.iter().find(|info| info.name == name);
            if got.is_none_or(|info| info.dims.len() != dims.len() || info.dims.iter().zip(&dims).any(differ)) {
                let got = got.map_or("missing".to_owned(), |info| shape_text(&info.dims));
                return Err(ModelError::Format {
                    path: path.to_owned(),
                    what: format!("the tensor `{name}` ({key} of {MANIFEST}) is {got}, expected {}", shape_text(&dims)),
                    remedy: format!("the network does not belong to this {MANIFEST}: export the model again"),
                });
            }
        }
        Ok(())
    }

    /// The model hash: SHA-256 over the two fp32 networks and the sections that decide what they are fed
    /// (preprocessing, k-means, levels). Bank, calibration and int8 files are not in it.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] when a network file is missing from `[files]`.
    pub fn model_hash(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Hashed<'a> {
            embedding: &'a str,
            grouping: &'a str,
            preprocessing: &'a PreprocessSpec,
            kmeans: &'a KmeansSpec,
            levels: &'a [LevelSpec],
        }
        let file = |name: String| {
            self.files.get(&name).ok_or_else(|| ModelError::Invalid {
                what: "[files] of model.toml".into(),
                expected: format!("an entry for {name}"),
                got: format!("{:?}", self.files.keys().collect::<Vec<_>>()),
            })
        };
        let hashed = Hashed {
            embedding: file(embedding_file(Precision::Fp32))?,
            grouping: file(grouping_file(Precision::Fp32))?,
            preprocessing: &self.preprocessing,
            kmeans: &self.kmeans,
            levels: &self.levels,
        };
        Ok(sha256_hex(to_toml(&hashed)?.as_bytes()))
    }
}

fn to_toml<T: Serialize>(value: &T) -> Result<String> {
    toml::to_string(value).map_err(|e| ModelError::Invalid {
        what: "the manifest".into(),
        expected: "values that TOML can hold".into(),
        got: e.to_string(),
    })
}

fn shape_text(dims: &[Dim]) -> String {
    let axis = |dim: &Dim| match dim {
        Dim::Fixed(length) => length.to_string(),
        Dim::Named(name) => name.clone(),
    };
    format!("[{}]", dims.iter().map(axis).collect::<Vec<_>>().join(", "))
}

/// File name of the embedding network.
pub fn embedding_file(precision: Precision) -> String {
    format!("embedding.{precision}.onnx")
}

/// File name of the grouping network.
pub fn grouping_file(precision: Precision) -> String {
    format!("grouping.{precision}.onnx")
}

/// A model folder whose every file has been checked against its manifest.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
    manifest: Manifest,
    label_space: LabelSpace,
    model_hash: String,
}

impl ModelFolder {
    /// Opens a folder by path and checks every hash, and the networks' inputs and outputs.
    ///
    /// # Errors
    /// [`ModelError::File`] when the folder or a file is missing, [`ModelError::Format`] for a broken `model.toml`
    /// (unknown keys and values out of range included) or a network with other inputs or outputs,
    /// [`ModelError::Hash`] when a file has changed.
    pub fn open(path: &Path) -> Result<Self> {
        let manifest_path = path.join(MANIFEST);
        let text = read_file(&manifest_path)?;
        let format = |what: String| ModelError::Format {
            path: manifest_path.clone(),
            what,
            remedy: "restore the file from the model's source or export the model again".into(),
        };
        let text = String::from_utf8(text).map_err(|_| format("is not UTF-8 text".into()))?;
        let manifest: Manifest = toml::from_str(&text).map_err(|e| format(e.to_string().trim_end().to_owned()))?;
        manifest.validate().map_err(|e| format(e.to_string()))?;
        for (name, expected) in &manifest.files {
            if name.contains(['/', '\\']) || name.starts_with('.') {
                return Err(format(format!("[files] names `{name}`, which is not a plain file name")));
            }
            let file = path.join(name);
            if !file.exists() {
                return Err(format(format!("lists {name}, but there is no {}", file.display())));
            }
            let bytes = read_file(&file)?;
            let got = sha256_hex(&bytes);
            if got != *expected {
                return Err(ModelError::Hash { path: file, expected: expected.clone(), got });
            }
            manifest.check_network(&file, name, &bytes)?;
        }
        let label_space = label_space_of(path, &manifest)?;
        let model_hash = manifest.model_hash().map_err(|e| format(e.to_string()))?;
        Ok(ModelFolder { path: path.to_owned(), manifest, label_space, model_hash })
    }

    /// Opens a model by path, or by name under one of `places` (folders that hold model folders), in their order.
    ///
    /// # Errors
    /// [`ModelError::NotFound`] listing where it looked, else as [`ModelFolder::open`].
    pub fn find(name_or_path: &str, places: &[PathBuf]) -> Result<Self> {
        let as_path = Path::new(name_or_path);
        // A path that leads to a folder is meant as a path even when its manifest is missing: say so.
        if as_path.is_dir() {
            return Self::open(as_path);
        }
        let is_name = !name_or_path.is_empty() && !name_or_path.contains('/');
        if is_name && let Some(found) = places.iter().map(|p| p.join(name_or_path)).find(|p| p.is_dir()) {
            return Self::open(&found);
        }
        let mut looked_in = vec![format!("`{name_or_path}` itself")];
        if is_name {
            looked_in.extend(places.iter().map(|p| p.join(name_or_path).display().to_string()));
        }
        Err(ModelError::NotFound { name: name_or_path.to_owned(), looked_in: looked_in.join(", ") })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checked manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The classes of the bank: built in, or those of the folder's `classes.toml`.
    pub fn label_space(&self) -> &LabelSpace {
        &self.label_space
    }

    /// See [`Manifest::model_hash`].
    pub fn model_hash(&self) -> &str {
        &self.model_hash
    }

    /// The embedding network's file, if the folder has this precision.
    pub fn embedding_path(&self, precision: Precision) -> Option<PathBuf> {
        self.listed(&embedding_file(precision))
    }

    /// The grouping network's file, if the folder has this precision.
    pub fn grouping_path(&self, precision: Precision) -> Option<PathBuf> {
        self.listed(&grouping_file(precision))
    }

    /// The prototype bank, if there is one.
    pub fn bank_path(&self) -> Option<PathBuf> {
        self.listed(BANK)
    }

    fn listed(&self, name: &str) -> Option<PathBuf> {
        self.manifest.files.contains_key(name).then(|| self.path.join(name))
    }

    /// A folder like this one that lists none of `names`: what is rewritten from it does not have them.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> ModelFolder {
        let mut folder = self.clone();
        folder.manifest.files.retain(|name, _| !names.contains(&name.as_str()));
        folder
    }

    /// Writes a complete copy of this folder with some files added or replaced, as `out`, or swapped in for this
    /// one when `out` is `None`. Readers see the old folder or the new one, never a mixture.
    ///
    /// # Errors
    /// [`ModelError::File`]; the old folder is left as it was.
    pub fn rewrite(&self, out: Option<&Path>, changes: &[(&str, &[u8])]) -> Result<ModelFolder> {
        let mut files = BTreeMap::new();
        for name in self.manifest.files.keys() {
            files.insert(name.clone(), read_file(&self.path.join(name))?);
        }
        for (name, bytes) in changes {
            files.insert((*name).to_owned(), bytes.to_vec());
        }
        write_folder(out.unwrap_or(&self.path), self.manifest.clone(), &files)
    }

    /// [`ModelFolder::rewrite`] with another bank, whose labels are train ids of `label_space`: classes that are not
    /// built in are written beside it as `classes.toml`. The model hash stays.
    ///
    /// # Errors
    /// As [`ModelFolder::rewrite`]; [`ModelError::Invalid`] when the label space has the name of a built-in one but
    /// other classes.
    pub fn rewrite_bank(&self, out: Option<&Path>, bank: &[u8], label_space: &LabelSpace) -> Result<ModelFolder> {
        let mut folder = self.clone();
        folder.manifest.label_space.clone_from(&label_space.name);
        // Gone, whatever it held: it is written anew where it is needed.
        folder.manifest.files.remove(CLASSES_FILE);
        match LabelSpace::by_name(&label_space.name) {
            Some(known) if known == *label_space => folder.rewrite(out, &[(BANK, bank)]),
            Some(_) => Err(ModelError::Invalid {
                what: "the name of the label space".into(),
                expected: "a name other than those that are built in, for classes of your own".into(),
                got: label_space.name.clone(),
            }),
            None => {
                let classes = to_toml(&ClassTable::of_train_ids(label_space))?;
                folder.rewrite(out, &[(BANK, bank), (CLASSES_FILE, classes.as_bytes())])
            }
        }
    }
}

/// The label space of a folder whose manifest has been validated and whose files have been checked.
fn label_space_of(path: &Path, manifest: &Manifest) -> Result<LabelSpace> {
    let name = &manifest.label_space;
    if !manifest.files.contains_key(CLASSES_FILE) {
        return LabelSpace::by_name(name).ok_or_else(|| ModelError::Invalid {
            what: format!("label_space of {}", path.join(MANIFEST).display()),
            expected: "a label space that is built in".into(),
            got: name.clone(),
        });
    }
    let file = path.join(CLASSES_FILE);
    let format = |what: String| ModelError::Format {
        path: file.clone(),
        what,
        remedy: "build the bank again with `hsg bank build`".into(),
    };
    let text = String::from_utf8(read_file(&file)?).map_err(|_| format("is not UTF-8 text".into()))?;
    let table: ClassTable = toml::from_str(&text).map_err(|e| format(e.to_string().trim_end().to_owned()))?;
    if table.name != *name {
        return Err(format(format!("is the label space `{}`, expected `{name}` as in {MANIFEST}", table.name)));
    }
    table.label_space().map_err(|e| format(e.to_string()))
}

/// Writes a model folder: into a new folder beside `path`, which is then renamed; an existing model folder at
/// `path` is replaced. `manifest.files` and `manifest.tensors.shapes` are filled in.
///
/// # Errors
/// [`ModelError::File`] when something cannot be written, [`ModelError::Invalid`] for a manifest out of range or
/// when `path` holds something that is no model folder, [`ModelError::Format`] for a network that does not fit the
/// manifest; nothing is left half-written.
pub fn write_folder(path: &Path, mut manifest: Manifest, files: &BTreeMap<String, Vec<u8>>) -> Result<ModelFolder> {
    manifest.files = files.iter().map(|(name, bytes)| (name.clone(), sha256_hex(bytes))).collect();
    manifest.tensors.shapes.clear();
    manifest.validate()?;
    manifest.tensors.shapes = manifest.tensor_shapes();
    for (name, bytes) in files {
        manifest.check_network(&path.join(name), name, bytes)?;
    }
    let is_empty = |p: &Path| p.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if path.exists() && !path.join(MANIFEST).is_file() && !is_empty(path) {
        return Err(ModelError::Invalid {
            what: format!("the output folder {}", path.display()),
            expected: "a new or empty folder, or a model folder to replace".into(),
            got: "a folder with other things in it".into(),
        });
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|e| file_error("create", parent, e))?;
    let fresh = temporary_beside(path);
    let result = fill_and_swap(path, &fresh, &manifest, files);
    if result.is_err() {
        // The error below says what went wrong; a leftover folder is hidden and harmless.
        let _ = std::fs::remove_dir_all(&fresh);
    }
    result?;
    ModelFolder::open(path)
}

/// Puts each in the other's place, in one step: whoever looks meanwhile finds a whole folder. False where the system or the
/// file system cannot do that.
fn exchange(a: &Path, b: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).is_ok()
}

fn fill_and_swap(path: &Path, fresh: &Path, manifest: &Manifest, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if fresh.exists() {
        std::fs::remove_dir_all(fresh).map_err(|e| file_error("remove", fresh, e))?;
    }
    std::fs::create_dir(fresh).map_err(|e| file_error("create", fresh, e))?;
    for (name, bytes) in files {
        write_atomically(&fresh.join(name), bytes)?;
    }
    let text = format!(
        "# A model folder of hsg. Every file below is checked against its hash at each start.\n{}",
        to_toml(manifest)?
    );
    write_atomically(&fresh.join(MANIFEST), text.as_bytes())?;
    put_in_place(path, fresh, exchange)
}

/// Makes `fresh` the folder at `path`; what was there is removed. `exchange` is [`exchange`].
fn put_in_place(path: &Path, fresh: &Path, exchange: impl Fn(&Path, &Path) -> bool) -> Result<()> {
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|e| file_error("replace", to, e));
    if !path.exists() {
        return rename(fresh, path);
    }
    if exchange(fresh, path) {
        // The new folder is in place, so nothing failed; what is left of the old one is hidden and harmless.
        let _ = std::fs::remove_dir_all(fresh);
        return Ok(());
    }
    // For a moment there is no folder; whoever opens it then is told so, and never finds half of one.
    let old = fresh.with_extension("old");
    rename(path, &old)?;
    if let Err(error) = rename(fresh, path) {
        rename(&old, path)?;
        return Err(error);
    }
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Network file systems, and kernels before 3.15, exchange no folders.
    #[test]
    fn a_folder_is_replaced_whole_with_and_without_an_exchange() {
        let parent = tempfile::tempdir().unwrap();
        let (path, fresh) = (parent.path().join("model"), parent.path().join(".model.1.tmp"));
        let make = |folder: &Path, file: &str| {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join(file), file).unwrap();
        };
        let never = |_: &Path, _: &Path| false;
        make(&path, "first");
        for (file, works) in [("second", false), ("third", true), ("fourth", false)] {
            make(&fresh, file);
            put_in_place(&path, &fresh, |a, b| works && exchange(a, b)).unwrap();
            assert_eq!((names(&path), names(parent.path())), (vec![file.to_owned()], vec!["model".to_owned()]));
        }
        // What cannot be put there leaves what was there.
        let error = put_in_place(&path, &fresh, never).unwrap_err().to_string();
        assert!(error.contains("cannot replace") && error.contains("model"), "{error}");
        assert_eq!((names(&path), names(parent.path())), (vec!["fourth".to_owned()], vec!["model".to_owned()]));
    }
}
