//! Time of one frame's label retrieval: `speed [QUERIES] [PROTOTYPES] [DIMENSION]` (default 192, 44000, 128).

use std::time::Instant;

use retrieval::{BankBuilder, NUM_VOTES, Storage};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (num_queries, count, dimension) = (next(192)?, next(44_000)?, next(128)?);
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut vector = || (0..dimension).map(|_| random()).collect::<Vec<f32>>();
    let mut builder = BankBuilder::new(dimension, "speed", "camvid_11");
    for index in 0..count {
        builder.push(&vector(), (index % 11) as u8)?;
    }
    let queries: Vec<f32> = (0..num_queries).flat_map(|_| vector()).collect();
    let bytes = builder.finish(Storage::F16)?;
    let start = Instant::now();
    let bank = bytes.to_bank()?;
    let open_millis = start.elapsed().as_secs_f64() * 1e3;
    let mut votes = Vec::new();
    let mut millis: Vec<f64> = (0..60)
        .map(|_| {
            let start = Instant::now();
            bank.vote(&queries, NUM_VOTES, 11, &mut votes).map(|()| start.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<Result<_, _>>()?;
    millis.sort_by(f64::total_cmp);
    println!(
        "{num_queries} queries × {count} prototypes × {dimension}: least {:.1} ms, median {:.1} ms, {} threads, {:.1} GFLOP/s; check and decode {open_millis:.0} ms",
        millis[0],
        millis[millis.len() / 2],
        rayon::current_num_threads(),
        2e-6 * (num_queries * count * dimension) as f64 / millis[0],
    );
    Ok(())
}
