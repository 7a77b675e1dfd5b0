//! Splitting work over the current rayon pool without allocating.

use std::ops::Range;

/// Calls `work(range, part)` for pieces of `range`, at most `grain` items each, on the current rayon pool. `data` is
/// split so that `part` holds the elements of its own range; `offset(i)` is where item `i` starts in `data`
/// (`offset(range.end)` its end). With `serial` everything runs on the calling thread, in order.
///
/// `rayon::join` keeps its jobs on the stack, so nothing is allocated.
pub(crate) fn for_each_range<T: Send>(
    range: Range<usize>,
    data: &mut [T],
    grain: usize,
    serial: bool,
    offset: &(impl Fn(usize) -> usize + Sync),
    work: &(impl Fn(Range<usize>, &mut [T]) + Sync),
) {
    let len = range.end.saturating_sub(range.start);
    if len <= grain.max(1) {
        if len > 0 {
            work(range, data);
        }
        return;
    }
    // Split at a multiple of the grain, so that pieces do not depend on how often work is stolen.
    let num_grains = len.div_ceil(grain.max(1));
    let middle = range.start + (num_grains / 2) * grain.max(1);
    let (left, right) = data.split_at_mut(offset(middle) - offset(range.start));
    if serial {
        for_each_range(range.start..middle, left, grain, serial, offset, work);
        for_each_range(middle..range.end, right, grain, serial, offset, work);
    } else {
        rayon::join(
            || for_each_range(range.start..middle, left, grain, serial, offset, work),
            || for_each_range(middle..range.end, right, grain, serial, offset, work),
        );
    }
}

/// Runs `work` on a thread of the current pool, so that the splits inside need no further hand-over.
pub(crate) fn enter_pool<R: Send>(serial: bool, work: impl FnOnce() -> R + Send) -> R {
    if serial { work() } else { rayon::join(work, || ()).0 }
}
