//! Which operators of libtorch something runs, and how often: on a GPU each costs its launch, whatever it computes, and
//! those that read a value back wait for everything that was asked for before.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, PoisonError};

type Tell = extern "C" fn(*mut c_void, *const c_char, u64);

unsafe extern "C" {
    // SAFETY: operators.cpp.
    fn hsg_count_operators();
    fn hsg_operators_counted(tell: Tell, context: *mut c_void);
}

/// How often each operator ran, by its name (`aten::add`).
pub type Counts = BTreeMap<String, u64>;

/// Operators that look at values: shapes depend on them, or they come back to the host.
const READING: [&str; 8] = [
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::bincount",
    "aten::masked_select",
    "aten::equal",
    "aten::is_nonzero",
];

/// What `run` gives, and the operators that this thread ran for it and that start a kernel on a GPU; those that are made
/// of others are not counted, they are.
pub fn count<T>(run: impl FnOnce() -> T) -> (T, Counts) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: under the lock nobody else counts; the two calls are made by one thread.
    unsafe { hsg_count_operators() };
    let value = run();
    let mut counts = Counts::new();
    // SAFETY: as above; `note` is given the map that outlives the call.
    unsafe { hsg_operators_counted(note, (&raw mut counts).cast()) };
    (value, counts)
}

extern "C" fn note(counts: *mut c_void, name: *const c_char, number: u64) {
    // SAFETY: `counts` is the map of `count`, which waits for this; `name` ends with 0 and lives during the call.
    let (counts, name) = unsafe { (&mut *counts.cast::<Counts>(), CStr::from_ptr(name)) };
    counts.insert(name.to_string_lossy().into_owned(), number);
}

/// Those among them that look at values.
pub fn reading(counts: &Counts) -> Counts {
    counts.iter().filter(|(name, _)| READING.contains(&name.as_str())).map(|(n, c)| (n.clone(), *c)).collect()
}
