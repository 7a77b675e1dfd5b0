//! Which operators of libtorch something runs, and how often: on a GPU each costs its launch, whatever it computes, and
//! those that read a value back wait for everything that was asked for before.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

type Tell = extern "C" fn(*mut c_void, *const c_char, u64);

unsafe extern "C" {
    // SAFETY: operators.cpp.
    fn hsg_count_operators();
    fn hsg_operators_counted(tell: Tell, context: *mut c_void);
    fn hsg_stop_counting_operators();
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

/// Counts the operators that this thread runs, of those that start a kernel on a GPU; an operator that is made of others
/// is counted as these. One at a time: others wait.
pub struct Counter {
    _one_at_a_time: MutexGuard<'static, ()>,
}

impl Counter {
    /// Counts from now on.
    #[expect(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: under the lock nobody else counts; a guard cannot be sent to another thread, so that all calls are made by
        // this one.
        unsafe { hsg_count_operators() };
        Counter { _one_at_a_time: guard }
    }

    /// Those since the last time.
    pub fn take(&self) -> Counts {
        let mut counts = Counts::new();
        // SAFETY: as above; `note` is given the map, which outlives the call.
        unsafe { hsg_operators_counted(note, (&raw mut counts).cast()) };
        counts
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: as above, once for every beginning.
        unsafe { hsg_stop_counting_operators() };
    }
}

/// What `run` gives, and the operators that this thread ran for it.
pub fn count<T>(run: impl FnOnce() -> T) -> (T, Counts) {
    let counter = Counter::new();
    let value = run();
    (value, counter.take())
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
