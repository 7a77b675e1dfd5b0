//! Ctrl-C and SIGTERM set a flag; a second one ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// A request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// `kill`, a service manager.
    Terminate,
}

impl Signal {
    /// 128 + the signal's number, as shells count.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Whether the program was asked to stop.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        let signals = Self { stop: Arc::default(), number: Arc::default() };
        for (signal, exit_code) in [(SIGINT, 130), (SIGTERM, 143)] {
            // Registered first, so it sees the flag of the *first* signal only when the second one comes.
            flag::register_conditional_shutdown(signal, exit_code, Arc::clone(&signals.stop))?;
            flag::register_usize(signal, Arc::clone(&signals.number), signal.unsigned_abs() as usize)?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        Ok(signals)
    }

    /// The flag for the pipelines.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The signal that came, if any.
    pub fn received(&self) -> Option<Signal> {
        if !self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.number.load(Ordering::Relaxed);
        Some(if number == SIGTERM.unsigned_abs() as usize { Signal::Terminate } else { Signal::Interrupt })
    }
}
