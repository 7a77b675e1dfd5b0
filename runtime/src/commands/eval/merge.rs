//! `hsg eval merge`: parts of an evaluation, measured by several machines or one after the other, become the whole.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::evaluation::Identity;
use super::shard_file::ShardFile;
use super::worst::keep_worst;
use crate::cli::EvalMergeArgs;
use crate::commands::{Outcome, output_folder};
use crate::settings::Shard;
use runtime::program::printer::Printer;
use runtime::sink::OutputFolder;

pub fn run(args: &EvalMergeArgs, printer: Printer) -> anyhow::Result<Outcome> {
    let out = args.out.as_deref();
    if let Some(part) = args.parts.iter().find(|part| out.is_some_and(|out| same_folder(out, part))) {
        bail!("--out {}: that is one of the parts, which would be lost; name another folder", part.display());
    }
    let folder = out.map(|out| output_folder("--out", out, args.force.unwrap_or(false))).transpose()?;
    let merged = read_and_merge(&args.parts).inspect_err(|_| {
        folder.iter().for_each(OutputFolder::remove_if_empty);
    })?;
    let evaluation = merged.evaluation();
    printer.text(evaluation.to_text())?;
    printer.document(&evaluation)?;
    if let Some(folder) = out {
        let report = merged.write(folder)?;
        printer.status(format!("report: {}", report.display()));
    }
    Ok(if merged.identity.missing_frames > 0 { Outcome::Incomplete } else { Outcome::Done })
}

fn read_and_merge(folders: &[PathBuf]) -> anyhow::Result<ShardFile> {
    let mut parts = Vec::with_capacity(folders.len());
    for folder in folders {
        parts.push((folder.as_path(), ShardFile::read(folder)?));
    }
    merge(parts)
}

fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Puts all parts of one evaluation together.
fn merge(mut parts: Vec<(&Path, ShardFile)>) -> anyhow::Result<ShardFile> {
    parts.sort_by_key(|(_, part)| part.shard.index);
    let mut parts = parts.into_iter();
    let (first_folder, mut whole) = parts.next().context("no part to merge")?;
    let of = whole.shard.of;
    let mut seen = vec![(whole.shard.index, first_folder)];
    for (folder, part) in parts {
        check_same(&whole.identity, &part.identity, first_folder, folder)?;
        ensure!(
            part.shard.of == of,
            "{} is part {} and {} is part {}: the parts of one evaluation have the same N in --shard I/N",
            first_folder.display(),
            whole.shard,
            folder.display(),
            part.shard
        );
        if let Some((index, before)) = seen.iter().find(|(index, _)| *index == part.shard.index) {
            bail!("part {index} of {of} is there twice: {} and {}", before.display(), folder.display());
        }
        seen.push((part.shard.index, folder));
        join_machines(&mut whole.identity, part.identity);
        whole
            .sums
            .merge(&part.sums)
            .with_context(|| format!("{} does not fit {}", folder.display(), first_folder.display()))?;
        whole.worst.extend(part.worst);
    }
    let missing: Vec<String> =
        (1..=of).filter(|index| !seen.iter().any(|(i, _)| i == index)).map(|index| index.to_string()).collect();
    if !missing.is_empty() {
        let command = Shard { index: 1, of }.to_string().replacen('1', "I", 1);
        bail!(
            "of {of} parts these are missing: {}; measure them with `hsg eval … --shard {command} --out DIR`",
            missing.join(", ")
        );
    }
    whole.sums.per_frame.sort_by_key(|frame| frame.index);
    let expected = whole.identity.samples;
    ensure!(
        whole.sums.per_frame.len() == expected,
        "the parts have {} frames together, expected {expected}: one of them is not what it says; measure them again",
        whole.sums.per_frame.len()
    );
    keep_worst(&mut whole.worst);
    whole.shard = Shard::WHOLE;
    Ok(whole)
}

/// Fails when two parts were measured with other settings; names the setting and both values.
fn check_same(expected: &Identity, got: &Identity, first: &Path, second: &Path) -> anyhow::Result<()> {
    let comparable = |identity: &Identity| -> anyhow::Result<Value> {
        let mut identity = identity.clone();
        // Which machine it was, and why its backend was chosen, change no figure.
        identity.machine = expected.machine.clone();
        identity.backend.reason.clear();
        serde_json::to_value(identity).context("cannot make JSON")
    };
    let (a, b) = (comparable(expected)?, comparable(got)?);
    if a == b {
        return Ok(());
    }
    let (key, a, b) = a
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(key, value)| Some((key.as_str(), value, b.get(key)?)).filter(|(_, a, b)| a != b))
        .unwrap_or(("settings", &Value::Null, &Value::Null));
    bail!(
        "{} and {} were measured with different settings: `{key}` is {a} in the one and {b} in the other; measure one of \
         them again",
        first.display(),
        second.display()
    )
}

/// Names every machine that took part.
fn join_machines(whole: &mut Identity, part: Identity) {
    if !whole.machine.cpu.split(" + ").any(|cpu| cpu == part.machine.cpu) {
        whole.machine.cpu = format!("{} + {}", whole.machine.cpu, part.machine.cpu);
    }
    if let Some(gpu) = part.machine.gpu {
        match &mut whole.machine.gpu {
            None => whole.machine.gpu = Some(gpu),
            Some(all) if !all.split(" + ").any(|known| known == gpu) => *all = format!("{all} + {gpu}"),
            Some(_) => {}
        }
    }
    whole.machine.threads = whole.machine.threads.max(part.machine.threads);
}
