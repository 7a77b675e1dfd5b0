//! `shard.json`: all that is needed to put parts of an evaluation together, and the files made from it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::against_reference::ReferenceReport;
use super::evaluation::{Evaluation, Identity};
use super::report::report;
use super::sums::Sums;
use super::worst::WorstFrame;
use crate::settings::Shard;

/// Version of the format; another one is refused.
const FORMAT: u32 = 3;
const SHARD_FILE: &str = "shard.json";

/// Everything that was measured of one part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShardFile {
    format: u32,
    pub(super) shard: Shard,
    pub(super) identity: Identity,
    pub(super) sums: Sums,
    /// The worst first.
    pub(super) worst: Vec<WorstFrame>,
    /// Of `--against-reference`, which is for the whole only.
    reference: Option<ReferenceReport>,
}

impl ShardFile {
    pub(super) fn new(
        shard: Shard,
        identity: Identity,
        sums: Sums,
        worst: Vec<WorstFrame>,
        reference: Option<ReferenceReport>,
    ) -> Self {
        Self { format: FORMAT, shard, identity, sums, worst, reference }
    }

    /// Reads the part in the folder `folder`, and checks that it can be one.
    ///
    /// # Errors
    /// When the file is missing, damaged or of another version.
    pub(super) fn read(folder: &Path) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let path = folder.join(SHARD_FILE);
        let bytes = std::fs::read(&path).with_context(|| {
            format!("{}: cannot be read; `hsg eval --shard I/N --out {}` writes it", path.display(), folder.display())
        })?;
        let damaged = || format!("{} is cut or damaged; measure that part again", path.display());
        let Version { format } = serde_json::from_slice(&bytes).with_context(damaged)?;
        ensure!(
            format == FORMAT,
            "{} is of format version {format}, this program reads version {FORMAT}: measure that part again with this \
             version",
            path.display()
        );
        let file: Self = serde_json::from_slice(&bytes).with_context(damaged)?;
        let Shard { index, of } = file.shard;
        ensure!((1..=of).contains(&index), "{}: there is no part {index} of {of}", path.display());
        Ok(file)
    }

    /// The figures.
    pub(super) fn evaluation(&self) -> Evaluation {
        Evaluation::new(&self.identity, &self.sums, self.reference.as_ref())
    }

    /// Writes `shard.json`, `evaluation.json`, `frames.jsonl` and `report.html` into `folder`, each whole or not at all;
    /// says which file to look at.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self, folder: &Path) -> anyhow::Result<PathBuf> {
        let evaluation = self.evaluation();
        super::super::write_json(&folder.join("evaluation.json"), &evaluation)?;
        let mut lines = String::new();
        for frame in &self.sums.per_frame {
            let line = serde_json::to_string(frame).context("cannot make JSON")?;
            writeln!(lines, "{line}").context("cannot make JSON")?;
        }
        models::files::write_atomically(&folder.join("frames.jsonl"), lines.as_bytes())?;
        let html = report(&self.identity, &evaluation, &self.sums, &self.worst)?;
        let path = folder.join("report.html");
        models::files::write_atomically(&path, html.as_bytes())?;
        // Last, so that a part that can be merged is a whole one.
        let mut text = serde_json::to_vec(self).context("cannot make JSON")?;
        text.push(b'\n');
        models::files::write_atomically(&folder.join(SHARD_FILE), &text)?;
        Ok(path)
    }
}
