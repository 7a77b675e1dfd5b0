//! Learns HSG on libtorch; the library of program `hsg-train`.
//!
//! A training image's way: `datasets` [T1] → [`edges`] [T2] → [`loader`], [`augment`] [T3] → [`graph_module`] [T4] →
//! [`base_segments`] [T5] → [`objective`], [`losses`] [T6] → [`optimiser`], [`schedule`], [`train_loop`],
//! [`checkpoint`], [`parallel`] [T7] → [`commands`]`::export` [T8].

pub mod augment;
pub mod base_segments;
mod batch_norm;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod composites;
pub mod cuda;
pub mod data;
pub mod device;
pub mod edges;
pub mod environment;
mod error;
pub mod evaluate;
pub mod events;
pub mod graph_module;
pub mod loader;
pub mod losses;
pub mod memory;
pub mod objective;
pub mod optimiser;
pub mod parallel;
pub mod pictures;
pub mod profile;
pub mod progress;
pub mod room;
pub mod run_folder;
pub mod run_log;
pub mod schedule;
pub mod settings;
pub mod signals;
pub mod train_loop;
pub mod trainer;
pub mod training_report;

pub use error::{Result, TrainError};
