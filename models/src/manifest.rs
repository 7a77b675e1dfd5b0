//! `model.toml` and the model folder: open, check hashes, find by name, rewrite.
//!
//! | file | content |
//! |---|---|
//! | `model.toml` | the [`Manifest`] |
//! | `embedding.<precision>.onnx` | image → unit features at stride 8 |
//! | `grouping.<precision>.onnx` | segment slots → transitions and centroids of all levels |
//! | `bank.postcard` | prototypes (crate `retrieval`); may be absent |
//! | `CARD.md` | for people: what it is, what it learned from, what it may be used for |

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use segcore::preprocess::PreprocessSpec;
use segcore::spherical_kmeans::KmeansSpec;
use serde::{Deserialize, Serialize};

use crate::arch::NetworkSpec;
use crate::files::{file_error, read_file, sha256_hex, temporary_beside, write_atomically};
use crate::{ModelError, Result};

/// Version of `model.toml` that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST: &str = "model.toml";
/// The prototype bank's file name.
pub const BANK: &str = "bank.postcard";
/// The model card's file name.
pub const CARD: &str = "CARD.md";

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

/// The content of `model.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name of the model.
    pub name: String,
    /// Name of the label space of the bank: `camvid_11`, `cityscapes_19`.
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
    /// Names of the tensors of the two networks.
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

/// Names of the networks' inputs and outputs. Transitions and centroids are numbered from 1:
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
}

impl Default for TensorNames {
    fn default() -> Self {
        use crate::arch::{embedding_net, grouping::names};
        TensorNames {
            image: embedding_net::IMAGE.into(),
            embedding: embedding_net::EMBEDDING.into(),
            features: names::FEATURES.into(),
            positions: names::POSITIONS.into(),
            valid: names::VALID.into(),
        }
    }
}

impl Manifest {
    /// Clusters of k-means, which are the slots of the grouping network.
    pub fn num_slots(&self) -> usize {
        self.kmeans.grid_rows * self.kmeans.grid_columns
    }

    /// Groups at levels 1, 2, ….
    pub fn groups(&self) -> Vec<usize> {
        self.levels.iter().map(|l| l.groups).collect()
    }

    /// Checks values that the types alone do not bound.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let invalid = |what: &str, expected: &str, got: String| {
            Err(ModelError::Invalid { what: what.to_owned(), expected: expected.to_owned(), got })
        };
        if self.format_version != FORMAT_VERSION {
            return invalid(
                "format_version of model.toml",
                &format!("{FORMAT_VERSION} (another version of this program wrote the model: export it again)"),
                self.format_version.to_string(),
            );
        }
        self.network.validate()?;
        if self.network.groups != self.groups() {
            return invalid("[[levels]]", &format!("{:?} as in [network]", self.network.groups), format!("{:?}", self.groups()));
        }
        let slots = self.num_slots();
        if slots < 2 || slots > 4096 || self.kmeans.rounds == 0 {
            return invalid("[kmeans]", "2 to 4096 clusters and at least one round", format!("{:?}", self.kmeans));
        }
        if self.stride == 0 || !self.preprocessing.multiple.is_multiple_of(self.stride) {
            return invalid("stride", "a divisor of preprocessing.multiple", self.stride.to_string());
        }
        if segcore::label_space::LabelSpace::by_name(&self.label_space).is_none() {
            return invalid("label_space", "camvid_11 or cityscapes_19", self.label_space.clone());
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
    model_hash: String,
}

impl ModelFolder {
    /// Opens a folder by path and checks every hash.
    ///
    /// # Errors
    /// [`ModelError::File`] when the folder or a file is missing, [`ModelError::Format`] for a broken `model.toml`
    /// (unknown keys included), [`ModelError::Hash`] when a file has changed, [`ModelError::Invalid`] for values
    /// out of range.
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
            let got = sha256_hex(&read_file(&file)?);
            if got != *expected {
                return Err(ModelError::Hash { path: file, expected: expected.clone(), got });
            }
        }
        let model_hash = manifest.model_hash().map_err(|e| format(e.to_string()))?;
        Ok(ModelFolder { path: path.to_owned(), manifest, model_hash })
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
}

/// Writes a model folder: into a new folder beside `path`, which is then renamed; an existing model folder at
/// `path` is replaced. `manifest.files` is filled in.
///
/// # Errors
/// [`ModelError::File`] when something cannot be written, [`ModelError::Invalid`] for a manifest out of range or
/// when `path` holds something that is no model folder; nothing is left half-written.
pub fn write_folder(path: &Path, mut manifest: Manifest, files: &BTreeMap<String, Vec<u8>>) -> Result<ModelFolder> {
    manifest.files = files.iter().map(|(name, bytes)| (name.clone(), sha256_hex(bytes))).collect();
    manifest.validate()?;
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
    let rename = |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|e| file_error("replace", to, e));
    if path.exists() {
        let old = fresh.with_extension("old");
        rename(path, &old)?;
        if let Err(error) = rename(fresh, path) {
            rename(&old, path)?;
            return Err(error);
        }
        std::fs::remove_dir_all(&old).map_err(|e| file_error("remove", &old, e))
    } else {
        rename(fresh, path)
    }
}
