//! What can be wrong with a bank or a query.

use std::path::PathBuf;

/// Why a bank could not be made, written, read or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetrievalError {
    /// The file could not be read.
    #[error("cannot read prototype bank {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file could not be written; what was there before is untouched.
    #[error("cannot write prototype bank {}: {source}; nothing was changed", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no bank.
    #[error("{} is not a prototype bank: expected it to begin with `HSGB`, got {got:?}", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// Its first bytes as text.
        got: String,
    },
    /// A bank of another format version.
    #[error("{} is a prototype bank of format version {got}, this program reads up to version {expected}: rebuild it with `hsg bank build`", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The newest version this program reads.
        expected: u16,
        /// The version of the file.
        got: u16,
    },
    /// The file is shorter or longer than its header says.
    #[error("{} is cut or damaged: expected {expected} bytes, got {got}; copy it again or rebuild it with `hsg bank build`", path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes it should have.
        expected: u64,
        /// Bytes it has.
        got: u64,
    },
    /// A header or payload that contradicts itself.
    #[error("{} is damaged: {reason}; copy it again or rebuild it with `hsg bank build`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The content does not have the hash it was written with.
    #[error("{} is damaged: SHA-256 expected {expected}, got {got}; copy it again or rebuild it with `hsg bank build`", path.display())]
    Hash {
        /// The file.
        path: PathBuf,
        /// Hash in the header.
        expected: String,
        /// Hash of the content.
        got: String,
    },
    /// The bank was built with another model.
    #[error("prototype bank {} was built with model {got}, but this model is {expected}: their features cannot be compared; rebuild it with `{command}`", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// Hash of the model in use.
        expected: String,
        /// Hash of the model the bank was built with.
        got: String,
        /// The command that builds it for the model.
        command: String,
    },
    /// The file was cut or written to while it was mapped into memory.
    #[error("prototype bank {} was changed while in use: {source}; start again, and replace banks by renaming a new file over the old one", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was found.
        source: std::io::Error,
    },
    /// An approximate search in a bank that has no index for it.
    #[error("prototype bank {} has no index, so it can only be searched exactly (--bank-search auto or exact): it has {prototypes} prototypes, and `hsg bank build` makes an index from {} on; banks of older versions have none: `{command}`", path.display(), crate::INDEXED_FROM)]
    NoIndex {
        /// The file.
        path: PathBuf,
        /// The command that builds it.
        command: String,
        /// Number of its prototypes.
        prototypes: usize,
    },
    /// A vector or a list of queries of a wrong length.
    #[error("{what} has {got} values: expected {expected}")]
    Dimension {
        /// What was given.
        what: &'static str,
        /// The length that fits.
        expected: String,
        /// The length given.
        got: usize,
    },
    /// A prototype without direction.
    #[error("prototype {index} has norm {norm}: expected a finite unit vector")]
    Prototype {
        /// Its index, from 0.
        index: usize,
        /// Its norm.
        norm: f32,
    },
    /// A bank without prototypes.
    #[error("the prototype bank would be empty: no labelled segment was given")]
    Empty,
    /// More prototypes than 32-bit indices can name.
    #[error("{got} prototypes do not fit a bank: expected at most {expected}")]
    TooMany {
        /// The limit.
        expected: usize,
        /// The number given.
        got: usize,
    },
    /// A number of neighbours out of range.
    #[error("{got} neighbours asked for: expected 1 to {expected}")]
    NumNeighbours {
        /// The largest number.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// A number of lists to look into out of range.
    #[error("an approximate search in {got} lists was asked for: expected 1 to {expected}")]
    NumProbes {
        /// The largest number.
        expected: usize,
        /// The number asked for.
        got: usize,
    },
    /// A label in the bank that the label space does not have.
    #[error(
        "the prototype bank has label {got}, but there are {num_classes} classes: it belongs to another label space"
    )]
    Label {
        /// Largest label in the bank.
        got: u8,
        /// Number of classes given.
        num_classes: usize,
    },
    /// A person's names that cannot be used.
    #[error(
        "names of yours, {}: {reason}; `hsg bank remove --all` with the --model of this run removes them, \
         --no-user-bank runs without them",
        path.display()
    )]
    User {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// Something that cannot be a class's name.
    #[error("the name {got:?}: expected 1 to {expected} characters that can be seen, no space at either end")]
    Name {
        /// What was given.
        got: String,
        /// Most characters.
        expected: usize,
    },
}
