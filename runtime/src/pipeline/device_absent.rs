//! In a program without the cargo feature `tensorrt`: `device.rs` without anything to run on.

use std::sync::Arc;

use retrieval::{Bank, Search, Weighting};
use segcore::embedding::EmbeddingMap;
use segcore::image::Frame;
use segcore::spherical_kmeans::SegmentMap;

use super::mask::MaskStage;
use super::segment::SegmentStart;
use super::slot::OnDevice;
use super::{Deployment, MAX_LEVELS, Ready, Resolution, StageError};
use crate::error::PipelineError;

/// Stages that there cannot be.
pub enum DeviceStages {}

/// Time of one frame, nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceNanos {
    /// Until everything was started.
    pub start: u64,
    /// Until everything but the slots was there.
    pub wait: u64,
}

impl DeviceStages {
    /// There are none.
    ///
    /// # Errors
    /// Never.
    pub fn new(_: &Arc<Deployment>, _: Resolution) -> Result<Option<Self>, PipelineError> {
        Ok(None)
    }

    pub fn run(
        &mut self,
        _: &Frame,
        _: (f32, usize),
        _: Option<&mut MaskStage>,
        _: bool,
        _: Option<&Ready>,
    ) -> Result<(SegmentStart, DeviceNanos), StageError> {
        match *self {}
    }

    pub fn pixels(&mut self, _: &mut Vec<u16>) -> Result<(), StageError> {
        match *self {}
    }

    pub fn restart(&mut self) {
        match *self {}
    }

    pub fn forget_geometry(&mut self) {
        match *self {}
    }

    pub fn map(&self) -> &SegmentMap {
        match *self {}
    }

    pub fn centroids(&self) -> &[f32] {
        match *self {}
    }

    pub fn reseeded(&self) -> &[u32] {
        match *self {}
    }

    pub fn transitions(&self) -> ([&[f32]; MAX_LEVELS], usize) {
        match *self {}
    }

    pub fn no_features(&self) -> &EmbeddingMap {
        match *self {}
    }

    pub fn how(&self) -> OnDevice {
        match *self {}
    }

    pub fn is_batched(&self) -> bool {
        match *self {}
    }
}

/// Runs that there cannot be.
#[derive(Default)]
pub struct SharedBatches(());

/// A bank that is on no device.
#[derive(Default)]
pub struct SharedBank(());

/// A search that there cannot be.
pub enum Lookup {}

impl Lookup {
    /// There is none.
    ///
    /// # Errors
    /// Never.
    pub fn new(
        _: &Deployment,
        _: &SharedBank,
        stages: &DeviceStages,
        _: Search,
    ) -> Result<Option<Self>, PipelineError> {
        match *stages {}
    }

    pub fn shares(
        &mut self,
        _: &Bank,
        _: Weighting,
        _: &[f32],
        _: usize,
        _: (&mut Vec<f32>, &mut Vec<f32>),
    ) -> Result<(), StageError> {
        match *self {}
    }
}
