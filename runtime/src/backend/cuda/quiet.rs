//! Captures of graphs, kept apart from what other threads do to the whole device.
//!
//! Memory that is allocated or freed, modules that are loaded, and TensorRT's contexts that come and go may wait for all work
//! of the device, or use streams of their own accord. Whether that spoils a capture on another thread is up to driver and
//! TensorRT, so here it does not happen meanwhile. One lock for the process, as there is one device.
//!
//! [`noise`] waits for captures only, not for who waits for one: whoever makes noise already may make more. Nobody captures
//! while making noise, which would wait for itself.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

struct Traffic {
    num_noisy: usize,
    is_capturing: bool,
}

static TRAFFIC: Mutex<Traffic> = Mutex::new(Traffic { num_noisy: 0, is_capturing: false });
static CHANGED: Condvar = Condvar::new();

fn traffic() -> MutexGuard<'static, Traffic> {
    // Nobody panics while holding it.
    TRAFFIC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As long as it lives, no graph is captured. It may end on another thread than where it began.
#[derive(Debug)]
pub struct Noise(());

/// Waits until nobody captures a graph.
pub fn noise() -> Noise {
    let mut traffic = traffic();
    while traffic.is_capturing {
        traffic = CHANGED.wait(traffic).unwrap_or_else(PoisonError::into_inner);
    }
    traffic.num_noisy += 1;
    Noise(())
}

impl Drop for Noise {
    fn drop(&mut self) {
        traffic().num_noisy -= 1;
        CHANGED.notify_all();
    }
}

/// As long as it lives, nobody makes noise or captures another graph.
#[derive(Debug)]
pub(super) struct Quiet(());

/// Waits until nobody makes noise or captures a graph.
pub(super) fn quiet() -> Quiet {
    let mut traffic = traffic();
    while traffic.is_capturing || traffic.num_noisy > 0 {
        traffic = CHANGED.wait(traffic).unwrap_or_else(PoisonError::into_inner);
    }
    traffic.is_capturing = true;
    Quiet(())
}

impl Drop for Quiet {
    fn drop(&mut self) {
        traffic().is_capturing = false;
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn captures_are_alone_and_noise_is_not() {
        let (noisy, capturing) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let first = noise();
                        noisy.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        // Within the first one, also while somebody waits to capture.
                        let second = noise();
                        assert_eq!(capturing.load(Ordering::SeqCst), 0);
                        noisy.fetch_sub(1, Ordering::SeqCst);
                        drop((first, second));
                    }
                });
                scope.spawn(|| {
                    for _ in 0..200 {
                        let alone = quiet();
                        assert_eq!(capturing.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(noisy.load(Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        capturing.fetch_sub(1, Ordering::SeqCst);
                        drop(alone);
                    }
                });
            }
        });
    }
}
