//! Files of tensors that other programs wrote: PyTorch's `torch.save` (both of its formats) and safetensors.
//!
//! [`TensorFile::open`] tells the formats apart by their first bytes, lists every tensor it finds in nested
//! dictionaries and lists, and converts one when it is asked for. Nothing of a file is ever executed (see `pickle.rs`).
//! What is allocated on the way is bounded by the file's size, and a tensor's values by the storage they lie in.
//!
//! | file | what |
//! |---|---|
//! | `zip.rs` | the container since PyTorch 1.6: `NAME/data.pkl`, `NAME/data/KEY` |
//! | `pickle.rs` | the object itself |
//! | `fit.rs` | tensors of a file → weights of a network; the network that a file belongs to |

mod fit;
mod pickle;
mod zip;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};

pub use fit::{FitReport, Left, fit, infer_network};
pub use pickle::ElementType;
use pickle::{Id, Pickle, Value};

use crate::files::{read_file, sha256_hex};
use crate::weights::Tensor;
use crate::{ModelError, Result};

/// First pickle of a legacy file: the number 0x1950a86a20f9469cfc6c, little-endian.
const LEGACY_MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const LEGACY_PROTOCOL: i64 = 1001;
/// Dictionaries within dictionaries.
const MAX_DEPTH: usize = 16;
/// Bytes of a tensor's whole name.
const MAX_NAME: usize = 512;

/// The container of a [`TensorFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// `torch.save` since PyTorch 1.6.
    TorchZip,
    /// `torch.save` before, or with `_use_new_zipfile_serialization=False`.
    TorchLegacy,
    /// safetensors.
    Safetensors,
}

impl std::fmt::Display for Container {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Container::TorchZip => "PyTorch (zip)",
            Container::TorchLegacy => "PyTorch (legacy)",
            Container::Safetensors => "safetensors",
        })
    }
}

/// A tensor of a file, not yet converted.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTensor {
    /// Its place: keys from the outermost dictionary on, joined by dots.
    pub name: String,
    /// Type of its elements in the file.
    pub element: ElementType,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// Elements from one to the next along each axis.
    strides: Vec<usize>,
    /// Elements of the storage before the first one.
    offset: usize,
    /// Where the storage lies in the file.
    storage: Range<usize>,
}

impl StoredTensor {
    /// Number of elements, checked when the file was read to be no overflow.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both are the same elements of the file.
    fn is_same_as(&self, other: &StoredTensor) -> bool {
        let place = |t: &StoredTensor| (t.element, t.offset, t.storage.clone());
        place(self) == place(other) && self.shape == other.shape && self.strides == other.strides
    }

    /// Whether elements are used more than once (`expand` in PyTorch), so that there are more than were stored.
    fn is_larger_than_stored(&self) -> bool {
        self.len() > self.storage.len() / self.element.size()
    }
}

/// A file of tensors, in memory.
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    container: Container,
    tensors: Vec<StoredTensor>,
    foreign: BTreeSet<String>,
}

impl TensorFile {
    /// Reads a file and lists its tensors.
    ///
    /// # Errors
    /// [`ModelError::File`] when it cannot be read; [`ModelError::Format`] when it is none of the formats, cut, damaged
    /// or without any tensor.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_file(path)?;
        Self::parse(path, bytes)
    }

    /// As [`TensorFile::open`], for bytes that are in memory; `path` is for messages.
    ///
    /// # Errors
    /// As [`TensorFile::open`].
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let container = container(&bytes).map_err(|(what, remedy)| format_error(path, what, remedy))?;
        let found = match container {
            Container::TorchZip => torch_zip(&bytes),
            Container::TorchLegacy => torch_legacy(&bytes),
            Container::Safetensors => safetensors(&bytes),
        };
        let found = found.map_err(|fault| {
            let remedy =
                fault.remedy.unwrap_or("fetch or save the file again; this one is cut, damaged or not a checkpoint");
            format_error(path, format!("expected a {container} file; {}", fault.what), remedy)
        })?;
        if found.tensors.is_empty() {
            let whole = found.foreign.iter().next().map_or_else(
                || "expected tensors, found none".to_owned(),
                |name| {
                    format!("expected dictionaries of tensors, found none, but Python objects such as `{name}`, which are not run")
                },
            );
            return Err(format_error(path, whole, "save the network's `state_dict()` instead"));
        }
        Ok(TensorFile { path: path.to_owned(), bytes, container, tensors: found.tensors, foreign: found.foreign })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which format it has.
    pub fn container(&self) -> Container {
        self.container
    }

    /// Its tensors, in the order of the file.
    pub fn tensors(&self) -> &[StoredTensor] {
        &self.tensors
    }

    /// Names of Python classes and functions in the file that are not part of a tensor. They were not run; what they
    /// would have made is left out.
    pub fn foreign(&self) -> &BTreeSet<String> {
        &self.foreign
    }

    /// SHA-256 of the whole file, hexadecimal.
    pub fn sha256(&self) -> String {
        sha256_hex(&self.bytes)
    }

    /// Bytes of the whole file.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Converts a tensor of this file to dense 32-bit floats.
    ///
    /// # Errors
    /// [`ModelError::Weights`] when it repeats its elements beyond what was stored.
    pub fn values(&self, tensor: &StoredTensor) -> Result<Tensor> {
        let storage = self.bytes.get(tensor.storage.clone()).filter(|_| !tensor.is_larger_than_stored());
        let storage = storage.ok_or_else(|| ModelError::Weights {
            origin: self.path.display().to_string(),
            tensor: tensor.name.clone(),
            what: format!("has shape {:?}, expected no more elements than were stored", tensor.shape),
        })?;
        Ok(Tensor { shape: tensor.shape.clone(), values: convert(tensor, storage) })
    }
}

fn format_error(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> ModelError {
    ModelError::Format { path: path.to_owned(), what: what.into(), remedy: remedy.into() }
}

/// What is wrong with a file; where the common remedy does not help, another.
struct Fault {
    what: String,
    remedy: Option<&'static str>,
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Fault { what, remedy: None }
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

struct Found {
    tensors: Vec<StoredTensor>,
    foreign: BTreeSet<String>,
}

fn container(bytes: &[u8]) -> std::result::Result<Container, (&'static str, &'static str)> {
    const SAVE_AGAIN: &str = "load it in PyTorch and save it with `torch.save(model.state_dict(), FILE)`";
    if zip::Archive::is_one(bytes) {
        return Ok(Container::TorchZip);
    }
    if let [0x80, 2..=5, ..] = bytes {
        return Ok(Container::TorchLegacy);
    }
    // Length of the header, then the header, which is JSON.
    if bytes.get(8) == Some(&b'{') {
        return Ok(Container::Safetensors);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Err(("expected a checkpoint, got a tar archive (PyTorch before 0.1.10 wrote such files)", SAVE_AGAIN));
    }
    if bytes.trim_ascii_start().starts_with(b"<") {
        let remedy = "download it with a browser; some hosts answer with a page for confirmation instead of the file";
        return Err(("expected a checkpoint, got a web page", remedy));
    }
    if bytes.is_empty() {
        return Err(("expected a checkpoint, got an empty file", "fetch it again"));
    }
    Err(("expected a checkpoint (PyTorch's torch.save or safetensors), got something else", SAVE_AGAIN))
}

fn torch_zip(bytes: &[u8]) -> std::result::Result<Found, Fault> {
    let archive = zip::Archive::open(bytes)?;
    let roots = archive.names().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut roots: Vec<&str> = roots.filter(|root| root.is_empty() || root.ends_with('/')).collect();
    let root = match (roots.pop(), roots.pop()) {
        (Some(root), None) => root,
        (None, _) => return Err(format!("it is a zip archive without an entry NAME/data.pkl{}", archive.hint()).into()),
        (Some(_), Some(_)) => return Err("it is a zip archive with more than one data.pkl".into()),
    };
    if archive.get(&format!("{root}constants.pkl")).is_some() {
        return Err(Fault {
            what: "it holds a TorchScript program".into(),
            remedy: Some("load it with torch.jit.load in PyTorch and save its state_dict() with torch.save"),
        });
    }
    let order = archive.get(&format!("{root}byteorder")).unwrap_or(b"little");
    if order.trim_ascii() != b"little" {
        return Err(big_endian());
    }
    let pickle = archive.get(&format!("{root}data.pkl")).ok_or("it has no data.pkl")?;
    let pickle = Pickle::read(pickle)?;
    let start = bytes.as_ptr() as usize;
    list(&pickle, |key| {
        let content = archive.get(&format!("{root}data/{key}"));
        let content = content.ok_or_else(|| format!("the storage `{key}` is missing{}", archive.hint()))?;
        let at = content.as_ptr() as usize - start;
        Ok(at..at + content.len())
    })
}

fn big_endian() -> Fault {
    Fault {
        what: "it was written by a big-endian machine".into(),
        remedy: Some("load and save it again on a little-endian machine (any PC)"),
    }
}

fn torch_legacy(bytes: &[u8]) -> std::result::Result<Found, Fault> {
    let mut at = 0;
    let mut next = || -> std::result::Result<(Pickle<'_>, usize), String> {
        let pickle = Pickle::read(&bytes[at..])?;
        at += pickle.length;
        Ok((pickle, at))
    };
    let is_magic = next()
        .is_ok_and(|(first, _)| matches!(first.value(first.top), Value::LongInt(number) if *number == LEGACY_MAGIC));
    if !is_magic {
        return Err(Fault {
            what: "it is a pickle, but not one that torch.save wrote".into(),
            remedy: Some("load it in PyTorch and save it with `torch.save(model.state_dict(), FILE)`"),
        });
    }
    let (protocol, _) = next()?;
    if !matches!(protocol.value(protocol.top), Value::Int(LEGACY_PROTOCOL)) {
        return Err(format!("its protocol is not {LEGACY_PROTOCOL}").into());
    }
    let (system, _) = next()?;
    if let Value::Dict(entries) = system.value(system.top) {
        let is = |id: Id, key: &str| matches!(system.value(id), Value::Text(text) if *text == key);
        let little = entries.iter().find(|(key, _)| is(*key, "little_endian")).map(|(_, value)| system.value(*value));
        if matches!(little, Some(Value::Bool(false))) {
            return Err(big_endian());
        }
    }
    let (object, _) = next()?;
    let (keys, mut at) = next()?;
    let Value::List(ids) = keys.value(keys.top) else { return Err("it has no list of storages".into()) };

    // A storage's size in bytes follows from its type, which only the object says.
    let mut sizes: HashMap<&str, usize> = HashMap::new();
    for value in &object.values {
        if let Value::Storage(storage) = value {
            let element = storage.element.ok_or("it has storages of an unknown type")?;
            sizes.insert(storage.key, element.size());
        }
    }
    let mut places: HashMap<&str, Range<usize>> = HashMap::new();
    for &id in ids {
        let Value::Text(key) = keys.value(id) else { return Err("a storage's key is no text".into()) };
        let size = *sizes.get(key).ok_or("a storage is listed that nothing uses")?;
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or("it is cut before a storage")?;
        let start = at + 8;
        let length = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|count| count.checked_mul(size));
        let end = length.and_then(|length| start.checked_add(length)).filter(|&end| end <= bytes.len());
        at = end.ok_or("it is cut within a storage")?;
        places.insert(key, start..at);
    }
    list(&object, |key| places.get(key).cloned().ok_or_else(|| format!("the storage `{key}` is missing")))
}

fn safetensors(bytes: &[u8]) -> std::result::Result<Found, Fault> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| format!("it is not whole: {e}"))?;
    let start = bytes.as_ptr() as usize;
    let mut tensors = Vec::new();
    for (name, view) in file.tensors() {
        let element = match view.dtype() {
            Dtype::F64 => ElementType::F64,
            Dtype::F32 => ElementType::F32,
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::BF16,
            Dtype::I64 => ElementType::I64,
            Dtype::I32 => ElementType::I32,
            Dtype::I16 => ElementType::I16,
            Dtype::I8 => ElementType::I8,
            Dtype::U8 => ElementType::U8,
            Dtype::BOOL => ElementType::Bool,
            _ => continue,
        };
        let at = view.data().as_ptr() as usize - start;
        let shape = view.shape().to_vec();
        let storage = at..at + view.data().len();
        let strides = dense_strides(&shape);
        tensors.push(StoredTensor { name, element, shape, strides, offset: 0, storage });
    }
    // As they lie in the file; the reader's own order is that of a hash map.
    tensors.sort_by(|a, b| (a.storage.start, &a.name).cmp(&(b.storage.start, &b.name)));
    Ok(Found { tensors, foreign: BTreeSet::new() })
}

fn dense_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// All tensors of a pickled object; `place` finds a storage by its key.
fn list(
    pickle: &Pickle<'_>,
    place: impl Fn(&str) -> std::result::Result<Range<usize>, String>,
) -> std::result::Result<Found, Fault> {
    let mut lister = Lister { pickle, place, seen: HashSet::new(), tensors: Vec::new() };
    lister.visit(pickle.top, &mut String::new(), 0)?;
    Ok(Found { tensors: lister.tensors, foreign: pickle.foreign.clone() })
}

struct Lister<'a, 'b, P> {
    pickle: &'a Pickle<'b>,
    place: P,
    /// Containers are listed once, under the first name, so that neither cycles nor repetitions multiply.
    seen: HashSet<Id>,
    tensors: Vec<StoredTensor>,
}

impl<P: Fn(&str) -> std::result::Result<Range<usize>, String>> Lister<'_, '_, P> {
    fn visit(&mut self, id: Id, name: &mut String, depth: usize) -> std::result::Result<(), String> {
        let pickle = self.pickle;
        match pickle.value(id) {
            Value::Tensor(view) => {
                if let Some(tensor) = self.stored(view, name)? {
                    self.tensors.push(tensor);
                }
            }
            Value::Dict(_) | Value::List(_) | Value::Tuple(_) if !self.seen.insert(id) => {}
            Value::Dict(_) | Value::List(_) | Value::Tuple(_) if depth >= MAX_DEPTH => {
                return Err(format!("dictionaries lie more than {MAX_DEPTH} deep in each other, at `{name}`"));
            }
            Value::Dict(entries) => {
                for (key, value) in entries {
                    match pickle.value(*key) {
                        Value::Text(key) => self.visit_part(*value, key, name, depth)?,
                        Value::Int(key) => self.visit_part(*value, &key.to_string(), name, depth)?,
                        // Nothing that a parameter could be named.
                        _ => {}
                    }
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.visit_part(*item, &index.to_string(), name, depth)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_part(&mut self, id: Id, key: &str, name: &mut String, depth: usize) -> std::result::Result<(), String> {
        // Numbers and strings by the thousand, as in the state of a sampler, need no name.
        let value = self.pickle.value(id);
        if !matches!(value, Value::Tensor(_) | Value::Dict(_) | Value::List(_) | Value::Tuple(_)) {
            return Ok(());
        }
        let before = name.len();
        if before + key.len() >= MAX_NAME {
            return Err(format!("a tensor's name is longer than {MAX_NAME} bytes"));
        }
        if before > 0 {
            name.push('.');
        }
        name.push_str(key);
        let visited = self.visit(id, name, depth + 1);
        name.truncate(before);
        visited
    }

    /// The tensor of a view, if its elements are of a known type; checked to lie within its storage.
    fn stored(&self, view: &pickle::View, name: &str) -> std::result::Result<Option<StoredTensor>, String> {
        let Value::Storage(storage) = self.pickle.value(view.storage) else { return Ok(None) };
        let Some(element) = view.element.or(storage.element) else { return Ok(None) };
        let place = (self.place)(storage.key)?;
        let offset = usize::try_from(storage.offset.saturating_add(view.offset)).unwrap_or(usize::MAX);
        let count = view.shape.iter().try_fold(1usize, |count, &length| count.checked_mul(length));
        let last = match count {
            Some(0) => Some(0),
            _ => view.shape.iter().zip(&view.strides).try_fold(offset, |last, (&length, &stride)| {
                last.checked_add(length.saturating_sub(1).checked_mul(stride)?)
            }),
        };
        let available = place.len() / element.size();
        if count.is_none() || last.is_none_or(|last| count != Some(0) && last >= available) {
            return Err(format!(
                "the tensor `{name}` of shape {:?} reaches beyond its storage of {available} elements",
                view.shape
            ));
        }
        Ok(Some(StoredTensor {
            name: name.to_owned(),
            element,
            shape: view.shape.clone(),
            strides: view.strides.clone(),
            offset,
            storage: place,
        }))
    }
}

/// Elements of `tensor` in row-major order. The storage was checked to hold them all.
fn convert(tensor: &StoredTensor, storage: &[u8]) -> Vec<f32> {
    match tensor.element {
        ElementType::F64 => gather(tensor, storage, |b| f64::from_le_bytes(b) as f32),
        ElementType::F32 => gather(tensor, storage, f32::from_le_bytes),
        ElementType::F16 => gather(tensor, storage, |b| half::f16::from_le_bytes(b).to_f32()),
        ElementType::BF16 => gather(tensor, storage, |b| half::bf16::from_le_bytes(b).to_f32()),
        ElementType::I64 => gather(tensor, storage, |b| i64::from_le_bytes(b) as f32),
        ElementType::I32 => gather(tensor, storage, |b| i32::from_le_bytes(b) as f32),
        ElementType::I16 => gather(tensor, storage, |b| f32::from(i16::from_le_bytes(b))),
        ElementType::I8 => gather(tensor, storage, |[b]: [u8; 1]| f32::from(b as i8)),
        ElementType::U8 => gather(tensor, storage, |[b]: [u8; 1]| f32::from(b)),
        ElementType::Bool => gather(tensor, storage, |[b]: [u8; 1]| f32::from(u8::from(b != 0))),
    }
}

fn gather<const N: usize>(tensor: &StoredTensor, storage: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    let elements = storage.as_chunks::<N>().0;
    let count = tensor.len();
    if count == 0 {
        return Vec::new();
    }
    if tensor.strides == dense_strides(&tensor.shape) {
        return elements[tensor.offset..tensor.offset + count].iter().map(|b| number(*b)).collect();
    }
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0; tensor.shape.len()];
    let mut at = tensor.offset;
    for _ in 0..count {
        values.push(number(elements[at]));
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            // An axis of length 1 may have any stride: what is added here is taken away below.
            at = at.wrapping_add(tensor.strides[axis]);
            if index[axis] < tensor.shape[axis] {
                break;
            }
            at = at.wrapping_sub(tensor.strides[axis].wrapping_mul(index[axis]));
            index[axis] = 0;
        }
    }
    values
}
