//! Pickles without execution: what `torch.save` writes, read as plain values.
//!
//! A pickle is a program for a stack machine that may name any Python function and call it. This machine calls
//! nothing: the few names that make up tensors are understood, every other name becomes an opaque value, and its call
//! another one. Values live in one arena and refer to each other by index, so that neither cycles nor deep nesting
//! cost stack or leak, and strings are slices of the pickle.
//!
//! Protocols 0 to 5 as the documentation of Python's `pickletools` has them, without what needs a registry or
//! buffers out of band.

use std::collections::{BTreeSet, HashMap};

/// Instructions that a pickle may have: a checkpoint of 300 tensors has about 20 000. Bounds memory and time, since
/// one instruction makes one value at most.
const MAX_INSTRUCTIONS: usize = 1_000_000;
/// Axes of a tensor; networks have 4.
const MAX_AXES: usize = 16;

/// Index of a value in a [`Pickle`].
pub type Id = u32;

/// A value.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `None`.
    Nothing,
    /// A truth value.
    Bool(bool),
    /// An integer of 64 bits at most.
    Int(i64),
    /// A longer integer, little-endian two's complement.
    LongInt(&'a [u8]),
    /// A float; its value is of no use here.
    Float,
    /// A string. One that is not UTF-8 (Python 2) is [`Value::Bytes`].
    Text(&'a str),
    /// Bytes; their value is of no use here.
    Bytes,
    /// A tuple or `torch.Size`.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary, ordered or not, in the order of writing.
    Dict(Vec<(Id, Id)>),
    /// A class or function by its name, `module.name`.
    Global(Global<'a>),
    /// A storage.
    Storage(Box<Storage<'a>>),
    /// A tensor.
    Tensor(Box<View>),
    /// What a call of a class or function that is not known here would have made.
    Opaque,
}

/// `module.name`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Global<'a> {
    module: &'a str,
    name: &'a str,
}

impl std::fmt::Display for Global<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.module, self.name)
    }
}

/// A storage that lies beside the pickle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Storage<'a> {
    /// Type of its elements; `None` for one that this program does not know.
    pub element: Option<ElementType>,
    /// Its key in the file.
    pub key: &'a str,
    /// Its number of elements.
    pub length: u64,
    /// Where in it a view begins (legacy files), in elements.
    pub offset: u64,
}

/// A strided view of a storage, in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// A [`Value::Storage`].
    pub storage: Id,
    /// Elements before the first one.
    pub offset: u64,
    /// Lengths of the axes.
    pub shape: Vec<usize>,
    /// Elements from one to the next along each axis.
    pub strides: Vec<usize>,
    /// Type of the elements where the storage does not say it.
    pub element: Option<ElementType>,
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ElementType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            ElementType::F64 | ElementType::I64 => 8,
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::F16 | ElementType::BF16 | ElementType::I16 => 2,
            ElementType::I8 | ElementType::U8 | ElementType::Bool => 1,
        }
    }

    /// Of `torch.FloatStorage` and the like.
    fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "DoubleStorage" => ElementType::F64,
            "FloatStorage" => ElementType::F32,
            "HalfStorage" => ElementType::F16,
            "BFloat16Storage" => ElementType::BF16,
            "LongStorage" => ElementType::I64,
            "IntStorage" => ElementType::I32,
            "ShortStorage" => ElementType::I16,
            "CharStorage" => ElementType::I8,
            "ByteStorage" | "UntypedStorage" => ElementType::U8,
            "BoolStorage" => ElementType::Bool,
            _ => return None,
        })
    }

    /// Of `torch.float32` and the like.
    fn of_dtype(name: &str) -> Option<Self> {
        Some(match name {
            "float64" => ElementType::F64,
            "float32" => ElementType::F32,
            "float16" => ElementType::F16,
            "bfloat16" => ElementType::BF16,
            "int64" => ElementType::I64,
            "int32" => ElementType::I32,
            "int16" => ElementType::I16,
            "int8" => ElementType::I8,
            "uint8" => ElementType::U8,
            "bool" => ElementType::Bool,
            _ => return None,
        })
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ElementType::F64 => "float64",
            ElementType::F32 => "float32",
            ElementType::F16 => "float16",
            ElementType::BF16 => "bfloat16",
            ElementType::I64 => "int64",
            ElementType::I32 => "int32",
            ElementType::I16 => "int16",
            ElementType::I8 => "int8",
            ElementType::U8 => "uint8",
            ElementType::Bool => "bool",
        })
    }
}

/// A pickle that was read.
#[derive(Debug)]
pub struct Pickle<'a> {
    /// All values; [`Id`] is an index into it.
    pub values: Vec<Value<'a>>,
    /// The value that the pickle stands for.
    pub top: Id,
    /// Bytes of the input that the pickle took.
    pub length: usize,
    /// Names of classes and functions that are not known here, each once.
    pub foreign: BTreeSet<String>,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the beginning of `bytes`.
    ///
    /// # Errors
    /// In words: cut or damaged pickles, instructions that `torch.save` does not write, too many of them.
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        Machine::new(bytes).run()
    }

    /// The value of this index.
    pub fn value(&self, id: Id) -> &Value<'a> {
        // Indices are made by the machine alone, for values that exist.
        &self.values[id as usize]
    }
}

/// How a known global is called.
#[derive(Clone, Copy, PartialEq)]
enum Known {
    OrderedDict,
    Tensor,
    TensorV3,
    Parameter,
    FromType,
    Size,
    /// Known, and of no use: becomes an opaque value without being reported.
    Harmless,
    /// A tensor pickled by `pickle`, not by `torch.save`: another pickle inside this one.
    NestedFile,
}

impl Global<'_> {
    fn known(&self) -> Option<Known> {
        let storage = matches!(self.module, "torch" | "torch.cuda" | "torch.storage");
        Some(match (self.module, self.name) {
            ("collections", "OrderedDict") => Known::OrderedDict,
            // The first of them wrote files up to PyTorch 0.3.
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Known::Tensor,
            ("torch._utils", "_rebuild_tensor_v3") => Known::TensorV3,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Known::Parameter,
            ("torch._tensor" | "torch.tensor", "_rebuild_from_type" | "_rebuild_from_type_v2") => Known::FromType,
            ("torch", "Size") => Known::Size,
            ("torch.nn.parameter", "Parameter") | ("torch", "Tensor" | "device") => Known::Harmless,
            ("numpy" | "numpy.core.multiarray" | "numpy._core.multiarray" | "_codecs", _) => Known::Harmless,
            ("torch.storage", "_load_from_bytes") => Known::NestedFile,
            ("torch", name) if ElementType::of_dtype(name).is_some() => Known::Harmless,
            (_, name) if storage && ElementType::of_storage(name).is_some() => Known::Harmless,
            _ => return None,
        })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    foreign: BTreeSet<String>,
    /// Items that calls copied. Values can be used again and again, so what one instruction copies has no other bound.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Machine {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            foreign: BTreeSet::new(),
            copied: 0,
        }
    }

    fn run(mut self) -> Result<Pickle<'a>, String> {
        for _ in 0..MAX_INSTRUCTIONS {
            let start = self.at;
            let code = self.take(1)?[0];
            if code == b'.' {
                let top = self.pop()?;
                return Ok(Pickle { values: self.values, top, length: self.at, foreign: self.foreign });
            }
            self.step(code).map_err(|what| format!("{what} (byte {start} of the pickle)"))?;
        }
        Err(format!("the pickle has more than {MAX_INSTRUCTIONS} instructions"))
    }

    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            // protocol, frame: nothing to do
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            // stack
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.since_mark().map(drop),
            b'2' => {
                let top = self.peek()?;
                self.stack.push(top);
                Ok(())
            }
            // memo
            b'q' => {
                let key = self.take(1)?[0];
                self.remember(u32::from(key))
            }
            b'r' => {
                let key = self.u32()?;
                self.remember(key)
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|_| "too many memo entries".to_owned())?;
                self.remember(key)
            }
            b'p' => {
                let key = self.line_number()?;
                self.remember(key)
            }
            b'h' => {
                let key = self.take(1)?[0];
                self.recall(u32::from(key))
            }
            b'j' => {
                let key = self.u32()?;
                self.recall(key)
            }
            b'g' => {
                let key = self.line_number()?;
                self.recall(key)
            }
            // scalars
            b'N' => self.push(Value::Nothing),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = self.u32()? as i32;
                self.push(Value::Int(i64::from(value)))
            }
            b'K' => {
                let value = self.take(1)?[0];
                self.push(Value::Int(i64::from(value)))
            }
            b'M' => {
                let value = self.u16()?;
                self.push(Value::Int(i64::from(value)))
            }
            0x8a => {
                let length = self.take(1)?[0] as usize;
                self.long(length)
            }
            0x8b => {
                let length = self.u32()? as usize;
                self.long(length)
            }
            b'I' | b'L' => {
                let value = match self.line()? {
                    "00" => Value::Bool(false),
                    "01" => Value::Bool(true),
                    text => Value::Int(text.trim_end_matches('L').parse().map_err(|_| "not an integer".to_owned())?),
                };
                self.push(value)
            }
            b'F' => {
                self.line()?;
                self.push(Value::Float)
            }
            b'G' => {
                self.take(8)?;
                self.push(Value::Float)
            }
            // strings and bytes
            b'U' | 0x8c | b'C' => {
                let length = self.take(1)?[0] as usize;
                self.text(length, code != b'C')
            }
            b'T' | b'X' | b'B' => {
                let length = self.u32()? as usize;
                self.text(length, code != b'B')
            }
            0x8d | 0x8e | 0x96 => {
                let length = self.u64()?;
                self.text(length, code == 0x8d)
            }
            b'S' | b'V' => {
                let text = self.line()?;
                let quoted = text.strip_prefix(['\'', '"']).and_then(|t| t.strip_suffix(['\'', '"']));
                self.push(Value::Text(if code == b'S' { quoted.unwrap_or(text) } else { text }))
            }
            // containers
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' | 0x8f => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            0x85..=0x87 => {
                let count = usize::from(code - 0x84);
                let at = self.stack.len().checked_sub(count).ok_or_else(empty_stack)?;
                let items = self.cut_stack(at)?;
                self.push(Value::Tuple(items))
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Value::Tuple(items))
            }
            b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Value::List(items))
            }
            b'd' => {
                let items = self.since_mark()?;
                let pairs = pairs(&items)?;
                self.push(Value::Dict(pairs))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend_list(&items)
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.extend_dict(&[(key, value)])
            }
            b'u' => {
                let items = self.since_mark()?;
                let pairs = pairs(&items)?;
                self.extend_dict(&pairs)
            }
            // classes and calls
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (self.value(module), self.value(name)) {
                    (&Value::Text(module), &Value::Text(name)) => self.global(module, name),
                    _ => Err("a class without a name".to_owned()),
                }
            }
            b'R' => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.call(callee, arguments)
            }
            0x81 => {
                let (arguments, class) = (self.pop()?, self.pop()?);
                self.call(class, arguments)
            }
            0x92 => {
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                self.call(class, arguments)
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                self.since_mark()?;
                self.global(module, name)?;
                self.pop()?;
                self.push(Value::Opaque)
            }
            b'o' => {
                self.since_mark()?;
                self.push(Value::Opaque)
            }
            // The state of an object: attributes such as `_metadata` of a state dictionary, of no use here.
            b'b' => {
                self.pop()?;
                self.peek().map(drop)
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)
            }
            _ => Err(format!("the instruction {code:#04x} is not one that torch.save writes")),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("the pickle is cut")?;
        self.at += length;
        Ok(taken)
    }

    fn u16(&mut self) -> Result<u16, String> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, String> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Result<usize, String> {
        let (low, high) = (u64::from(self.u32()?), u64::from(self.u32()?));
        usize::try_from(low | high << 32).map_err(|_| "the pickle is cut".to_owned())
    }

    /// Up to the next end of line, without it.
    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or("the pickle is cut")?;
        let line = std::str::from_utf8(self.take(length)?).map_err(|_| "a line is not text".to_owned())?;
        self.take(1)?;
        Ok(line.trim_end_matches('\r'))
    }

    fn line_number(&mut self) -> Result<u32, String> {
        self.line()?.parse().map_err(|_| "not a memo index".to_owned())
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        let id = Id::try_from(self.values.len()).map_err(|_| "too many values".to_owned())?;
        self.values.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// What lies below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.stack.len() <= self.floor() {
            return Err(empty_stack());
        }
        self.stack.pop().ok_or_else(empty_stack)
    }

    fn peek(&self) -> Result<Id, String> {
        if self.stack.len() <= self.floor() {
            return Err(empty_stack());
        }
        self.stack.last().copied().ok_or_else(empty_stack)
    }

    fn cut_stack(&mut self, at: usize) -> Result<Vec<Id>, String> {
        if at < self.floor() {
            return Err(empty_stack());
        }
        Ok(self.stack.split_off(at))
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let at = self.marks.pop().ok_or("a mark is missing")?;
        // Below the mark the stack cannot have been cut, see `pop`.
        Ok(self.stack.split_off(at))
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let top = self.peek()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = *self.memo.get(&key).ok_or("a value is used that was never made")?;
        self.stack.push(id);
        Ok(())
    }

    fn long(&mut self, length: usize) -> Result<(), String> {
        let bytes = self.take(length)?;
        let value = match bytes {
            [] => Value::Int(0),
            [.., last] if length <= 8 => {
                let fill = if *last >= 0x80 { 0xff } else { 0 };
                let mut whole = [fill; 8];
                whole[..length].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(whole))
            }
            _ => Value::LongInt(bytes),
        };
        self.push(value)
    }

    fn text(&mut self, length: usize, is_text: bool) -> Result<(), String> {
        let bytes = self.take(length)?;
        self.push(match std::str::from_utf8(bytes) {
            Ok(text) if is_text => Value::Text(text),
            _ => Value::Bytes,
        })
    }

    fn extend_list(&mut self, items: &[Id]) -> Result<(), String> {
        let target = self.peek()? as usize;
        match &mut self.values[target] {
            Value::List(list) => list.extend_from_slice(items),
            // An object that behaves as a list.
            Value::Opaque => {}
            _ => return Err("items are added to something that is no list".to_owned()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[(Id, Id)]) -> Result<(), String> {
        let target = self.peek()? as usize;
        match &mut self.values[target] {
            Value::Dict(dict) => dict.extend_from_slice(items),
            Value::Opaque => {}
            _ => return Err("entries are added to something that is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), String> {
        let global = Global { module, name };
        if global.known().is_none() {
            self.foreign.insert(shown(&global));
        }
        self.push(Value::Global(global))
    }

    /// The value of a call, as far as it can be told without calling.
    fn call(&mut self, callee: Id, arguments: Id) -> Result<(), String> {
        let known = match self.value(callee) {
            Value::Global(global) => global.known(),
            _ => None,
        };
        // No known call has more than eight arguments.
        let items: Vec<Id> = match self.value(arguments) {
            Value::Tuple(items) => items.iter().take(8).copied().collect(),
            _ => Vec::new(),
        };
        let value = match (known, items.as_slice()) {
            (Some(Known::OrderedDict), []) => Some(Value::Dict(Vec::new())),
            (Some(Known::OrderedDict), [list]) => self.dict_of_pairs(*list)?,
            (Some(Known::Size), [same]) | (Some(Known::Parameter), [same, ..]) => {
                self.stack.push(*same);
                return Ok(());
            }
            (Some(Known::Tensor), [storage, offset, shape, strides, ..]) => {
                Some(Value::Tensor(self.view(*storage, *offset, *shape, *strides, None)?))
            }
            (Some(Known::TensorV3), [storage, offset, shape, strides, _, _, dtype, ..]) => {
                let element = match self.value(*dtype) {
                    Value::Global(global) => ElementType::of_dtype(global.name),
                    _ => None,
                };
                // Float8 and the like: nothing that a network here is made of.
                match element {
                    Some(_) => Some(Value::Tensor(self.view(*storage, *offset, *shape, *strides, element)?)),
                    None => None,
                }
            }
            (Some(Known::FromType), [function, _, arguments, ..]) => {
                // The function's own rules decide; only one level, so no recursion without end.
                let again = matches!(self.value(*function), Value::Global(g) if g.known() == Some(Known::FromType));
                if again {
                    return Err("a tensor is rebuilt by a function that rebuilds itself".to_owned());
                }
                return self.call(*function, *arguments);
            }
            (Some(Known::NestedFile), _) => {
                return Err("a tensor was written by Python's pickle module instead of torch.save".to_owned());
            }
            _ => None,
        };
        self.push(value.unwrap_or(Value::Opaque))
    }

    fn charge(&mut self, items: usize) -> Result<(), String> {
        self.copied = self.copied.saturating_add(items);
        match self.copied <= MAX_INSTRUCTIONS {
            true => Ok(()),
            false => Err(format!("calls of the pickle copy more than {MAX_INSTRUCTIONS} items")),
        }
    }

    /// Python 2 wrote ordered dictionaries as lists of pairs.
    fn dict_of_pairs(&mut self, list: Id) -> Result<Option<Value<'a>>, String> {
        let count = match self.value(list) {
            Value::List(items) | Value::Tuple(items) => items.len(),
            _ => return Ok(None),
        };
        self.charge(count)?;
        let (Value::List(items) | Value::Tuple(items)) = self.value(list) else { return Ok(None) };
        let pair = |id: &Id| match self.value(*id) {
            Value::List(pair) | Value::Tuple(pair) => match pair.as_slice() {
                [key, value] => Some((*key, *value)),
                _ => None,
            },
            _ => None,
        };
        Ok(items.iter().map(pair).collect::<Option<_>>().map(Value::Dict))
    }

    fn view(
        &mut self,
        storage: Id,
        offset: Id,
        shape: Id,
        strides: Id,
        element: Option<ElementType>,
    ) -> Result<Box<View>, String> {
        if !matches!(self.value(storage), Value::Storage(_)) {
            return Err("a tensor has no storage".to_owned());
        }
        let numbers = |id: Id, what: &str| match self.value(id) {
            Value::Tuple(items) | Value::List(items) if items.len() <= MAX_AXES => {
                items.iter().map(|&item| self.number(item, what)).collect::<Result<Vec<usize>, String>>()
            }
            _ => Err(format!("a tensor's {what} is no short list of numbers")),
        };
        let view = View {
            storage,
            offset: self.number(offset, "offset")? as u64,
            shape: numbers(shape, "shape")?,
            strides: numbers(strides, "strides")?,
            element,
        };
        if view.shape.len() != view.strides.len() {
            return Err("a tensor has not as many strides as axes".to_owned());
        }
        self.charge(view.shape.len())?;
        Ok(Box::new(view))
    }

    fn number(&self, id: Id, what: &str) -> Result<usize, String> {
        match self.value(id) {
            Value::Int(n) => usize::try_from(*n).map_err(|_| format!("a tensor's {what} holds {n}")),
            _ => Err(format!("a tensor's {what} is no number")),
        }
    }

    fn persistent(&mut self, id: Id) -> Result<(), String> {
        let Value::Tuple(items) = self.value(id) else { return Err("a storage without a description".to_owned()) };
        let kind = items.first().map(|&id| self.value(id));
        match (kind, items.as_slice()) {
            (Some(Value::Text("storage")), [_, class, key, _, length, rest @ ..]) => {
                let (&Value::Global(class), &Value::Text(key)) = (self.value(*class), self.value(*key)) else {
                    return Err("a storage without a type or a key".to_owned());
                };
                let known = matches!(class.module, "torch" | "torch.cuda" | "torch.storage");
                let element = known.then(|| ElementType::of_storage(class.name)).flatten();
                let mut length = self.number(*length, "storage length")? as u64;
                let mut offset = 0;
                if let Some(Value::Tuple(view)) = rest.first().map(|&id| self.value(id)) {
                    let [_, start, view_length] = view.as_slice() else {
                        return Err("a view of a storage without its three numbers".to_owned());
                    };
                    offset = self.number(*start, "storage offset")? as u64;
                    length = length.max(offset.saturating_add(self.number(*view_length, "storage length")? as u64));
                }
                self.push(Value::Storage(Box::new(Storage { element, key, length, offset })))
            }
            // A class with its source code (whole modules in legacy files).
            (Some(Value::Text("module")), [_, class, ..]) => {
                let class = *class;
                self.stack.push(class);
                Ok(())
            }
            _ => Err("a reference to something that is no storage".to_owned()),
        }
    }
}

fn empty_stack() -> String {
    "the pickle takes a value from an empty stack".to_owned()
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a dictionary has a key without a value".to_owned());
    }
    Ok(pairs.iter().map(|[key, value]| (*key, *value)).collect())
}

/// A global's name for messages, however long or strange it is.
fn shown(global: &Global<'_>) -> String {
    const LONGEST: usize = 100;
    global.to_string().chars().take(LONGEST).flat_map(char::escape_debug).collect()
}
