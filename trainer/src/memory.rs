//! What memory there is, and the least that a step takes of it. \[T7\]

use std::collections::BTreeSet;
use std::fs;

use models::arch::embedding_net;
use models::graph::{Graph, Op};

use crate::error::Result;

/// Memory for this process, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineMemory {
    /// All there is, with swap; within the limit of a container.
    pub total: u64,
    /// What is free or could be freed without swapping.
    pub available: u64,
}

impl MachineMemory {
    /// That of this machine, if the system says it (Linux does).
    pub fn of_this_machine() -> Option<Self> {
        let info = fs::read_to_string("/proc/meminfo").ok()?;
        // Of version 2; inside a container its own limits stand at the root.
        let limit = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).unwrap_or_default();
        Self::parse(&info, limit("memory.max").trim(), limit("memory.swap.max").trim())
    }

    /// From `/proc/meminfo` and the limits of a container, "max" or nothing without one; that of memory is apart from swap.
    fn parse(info: &str, limit: &str, swap_limit: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let kib = info.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB"))?;
            kib.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let (ram, available) = (bytes("MemTotal:")?, bytes("MemAvailable:")?);
        let limited = |bytes: u64, limit: &str| bytes.min(limit.parse().unwrap_or(u64::MAX));
        let swap = limited(bytes("SwapTotal:").unwrap_or(0), swap_limit);
        Some(Self { total: limited(ram, limit).saturating_add(swap), available: limited(available, limit) })
    }
}

/// What a step on a CPU holds at once, at the least, in bytes: what the embedding network's backward pass needs of its forward
/// pass, the inputs of convolutions and batch normalisations, in fp32. The whole step takes more.
///
/// # Errors
/// When `image` (`[views, 3, h, w]`) does not fit the network.
pub fn least_step_bytes(embedding: &Graph, image: &[usize]) -> Result<u64> {
    let shapes = embedding.infer_shapes(&[(embedding_net::IMAGE, image)])?;
    let is_kept = |op: &Op| matches!(op, Op::Conv { .. } | Op::BatchNormalization { .. });
    let nodes = embedding.nodes.iter().filter(|node| is_kept(&node.op));
    // A value that two of them take is kept once.
    let kept: BTreeSet<&str> = nodes.filter_map(|node| node.inputs.first()).map(String::as_str).collect();
    let bytes = |name: &&str| shapes.get(*name).map_or(0, |shape| shape.iter().map(|n| *n as u64).product::<u64>() * 4);
    Ok(kept.iter().map(bytes).sum())
}

/// Whether a step has room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Nothing speaks against it.
    Open,
    /// Not without ending other programs or swapping, says the text.
    Tight(String),
    /// Never on this machine, says the text.
    Never(String),
}

impl Fit {
    /// Of a step that takes at least `least` bytes, in `memory`.
    pub fn of(least: u64, memory: MachineMemory) -> Self {
        let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
        let MachineMemory { total, available } = memory;
        if least > total {
            Fit::Never(format!("a step takes more than {}, and there are {} in all, with swap", gb(least), gb(total)))
        } else if least > available {
            Fit::Tight(format!("a step takes more than {}, and {} are free", gb(least), gb(available)))
        } else {
            Fit::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_swap_and_limits() {
        let info = "MemTotal:  1000 kB\nMemFree: 10 kB\nMemAvailable:   600 kB\nSwapTotal: 24 kB\n";
        let of = |limit, swap_limit| MachineMemory::parse(info, limit, swap_limit);
        let (total, available) = (1024 * 1024, 600 * 1024);
        assert_eq!(of("max", "max"), Some(MachineMemory { total, available }));
        assert_eq!(of("", ""), Some(MachineMemory { total, available }));
        assert_eq!(of("500", "max"), Some(MachineMemory { total: 500 + 24 * 1024, available: 500 }));
        assert_eq!(of("500", "0"), Some(MachineMemory { total: 500, available: 500 }));
        assert_eq!(MachineMemory::parse("MemTotal: 1 GB\n", "", ""), None);
    }

    #[test]
    fn a_step_fits_or_the_text_says_why_not() {
        let memory = MachineMemory { total: 8_000_000_000, available: 5_000_000_000 };
        assert_eq!(Fit::of(5_000_000_000, memory), Fit::Open);
        assert!(matches!(Fit::of(5_000_000_001, memory), Fit::Tight(text) if text.contains("5.0 GB are free")));
        assert!(matches!(Fit::of(8_000_000_001, memory), Fit::Never(text) if text.contains("8.0 GB in all")));
    }

    #[test]
    fn what_the_backward_pass_needs_is_counted_once() {
        use models::arch::OutputStride;
        let settings = crate::settings::TrainSettings::preset("camvid-cpu").expect("a preset");
        let graph = embedding_net::fcn(&settings.network, OutputStride::Train16).expect("a network");
        let bytes = |views| least_step_bytes(&graph, &[views, 3, 224, 224]).expect("shapes");
        // Image, first convolution's result (32 channels at half size) and what follows it, pooled.
        let first = (3 * 224 * 224 + 32 * 112 * 112) * 4;
        assert!(bytes(1) > 2 * first && bytes(1) < 20 * first, "{}", bytes(1));
        assert_eq!(bytes(8), 8 * bytes(1));
        assert!(least_step_bytes(&graph, &[1, 4, 224, 224]).is_err());
    }
}
