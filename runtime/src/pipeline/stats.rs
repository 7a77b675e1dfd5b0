//! What a run measures about itself: distributions of times, memory, processor time.

use serde::Serialize;

/// Distribution of a time, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Distribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest value.
    pub max: f64,
}

/// Ratio of neighbouring bucket limits: percentiles are within 1 % of the exact ones.
const BUCKET_RATIO: f64 = 1.02;
/// Lower limit of the first bucket above zero, nanoseconds.
const SMALLEST_NANOS: f64 = 100.0;
/// Enough buckets for 100 ns … 3 hours.
const NUM_BUCKETS: usize = 1290;

/// A histogram of times in a fixed amount of memory, however long a run lasts. Mean and maximum are exact,
/// percentiles within 1 %.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum_nanos: f64,
    max_nanos: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; NUM_BUCKETS], count: 0, sum_nanos: 0.0, max_nanos: 0 }
    }
}

impl Histogram {
    /// Adds one time.
    pub fn add(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.sum_nanos += nanos as f64;
        self.max_nanos = self.max_nanos.max(nanos);
    }

    /// Number of times added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean, percentiles and maximum; zeros when empty.
    pub fn distribution(&self) -> Distribution {
        if self.count == 0 {
            return Distribution::default();
        }
        let percentile = |share: f64| {
            let rank = (share * self.count as f64).ceil().max(1.0) as u64;
            let mut seen = 0;
            for (index, &count) in self.counts.iter().enumerate() {
                seen += count;
                if seen >= rank {
                    return (bucket_nanos(index) / 1e6).min(self.max_nanos as f64 / 1e6);
                }
            }
            self.max_nanos as f64 / 1e6
        };
        Distribution {
            mean: self.sum_nanos / self.count as f64 / 1e6,
            p50: percentile(0.5),
            p99: percentile(0.99),
            p999: percentile(0.999),
            max: self.max_nanos as f64 / 1e6,
        }
    }
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos as f64;
    if nanos < SMALLEST_NANOS {
        return 0;
    }
    let index = 1 + ((nanos / SMALLEST_NANOS).ln() / BUCKET_RATIO.ln()) as usize;
    index.min(NUM_BUCKETS - 1)
}

/// Geometric middle of a bucket; bucket 0 counts as zero.
fn bucket_nanos(index: usize) -> f64 {
    if index == 0 { 0.0 } else { SMALLEST_NANOS * BUCKET_RATIO.powf(index as f64 - 0.5) }
}

/// Largest resident set of this process so far, bytes (VmHWM); 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    status_kilobytes("VmHWM:") * 1024
}

/// Resident set of this process now, bytes (VmRSS); 0 where the system does not tell.
pub fn rss_bytes() -> u64 {
    status_kilobytes("VmRSS:") * 1024
}

fn status_kilobytes(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Processor time of this process so far, all threads, user and system, seconds; 0 where the system does not tell.
pub fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of /proc/self/stat, in ticks of 1/100 s (USER_HZ, the same on every Linux architecture we
    // know). The second field is the program's name in parentheses and may hold spaces.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks = |index: usize| fields.split_whitespace().nth(index).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// Name of the processor, for example from /proc/cpuinfo; the architecture where the system does not tell.
pub fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_close_to_the_exact_ones() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.distribution(), Distribution::default());
        for i in 1..=1000u64 {
            histogram.add(i * 100_000); // 0.1 to 100 ms
        }
        let d = histogram.distribution();
        assert!((d.mean - 50.05).abs() < 1e-9, "{d:?}");
        assert_eq!(d.max, 100.0);
        for (got, exact) in [(d.p50, 50.0), (d.p99, 99.0), (d.p999, 99.9)] {
            assert!((got / exact - 1.0).abs() < 0.0101, "{got} {exact}");
        }
    }

    #[test]
    fn stages_that_did_not_run_have_zeros() {
        let mut histogram = Histogram::default();
        histogram.add(0);
        histogram.add(0);
        assert_eq!(histogram.distribution(), Distribution::default());
    }

    #[test]
    fn extreme_times_stay_in_the_table() {
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        histogram.add(1);
        assert!(histogram.distribution().max > 1e12);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_measures_itself() {
        let resident = rss_bytes();
        assert!(resident > 100_000 && peak_rss_bytes() >= resident / 2);
        let mut x = 1u64;
        let start = std::time::Instant::now();
        // A loaded machine gives a process its first tick late.
        while cpu_seconds() == 0.0 && start.elapsed().as_secs() < 20 {
            for _ in 0..1_000_000 {
                x = std::hint::black_box(x.wrapping_mul(3));
            }
        }
        assert!(cpu_seconds() > 0.0);
        assert!(!cpu_name().is_empty());
    }
}
