//! What a stream gives up when frames come later than `--deadline-millis`, and when it takes it back.
//!
//! The ladder is [`LADDER`], and nothing else is ever given up. Every frame carries the step it was computed at
//! (`degradation_step`). On a GPU pixels are refined at every step: there it costs less than doing without, so step 1 gives up
//! nothing and is a wait before step 2. The rules, in [`Deadline::observe`]: late for [`LATE_FRAMES`] frames or [`LATE_NANOS`] in a row →
//! one step down (two when twice too late); well in time ([`EASY_SHARE`]) for a while → one step back. A step back that was
//! late again soon doubles that while, so that a machine which is just too slow does not go up and down for ever.

use std::time::Duration;

/// One step of the ladder: all that frames at this step do without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// In words, for `summary.json`.
    pub gives_up: &'static str,
    /// Whether pixels near borders are looked at again.
    pub refine: bool,
    /// Most rounds of k-means; the model's own number where that is smaller.
    pub max_rounds: usize,
    /// Part of the network's input size, per side.
    pub input_scale: f32,
}

/// The ladder, from nothing given up to the most.
pub const LADDER: [Step; 5] = [
    Step { gives_up: "nothing", refine: true, max_rounds: usize::MAX, input_scale: 1.0 },
    Step { gives_up: "refinement at borders", refine: false, max_rounds: usize::MAX, input_scale: 1.0 },
    Step { gives_up: "k-means rounds beyond 1, too", refine: false, max_rounds: 1, input_scale: 1.0 },
    Step {
        gives_up: "a quarter of the input's width and height, too",
        refine: false,
        max_rounds: 1,
        input_scale: 0.75,
    },
    Step { gives_up: "half of the input's width and height, too", refine: false, max_rounds: 1, input_scale: 0.5 },
];

/// Late frames in a row before a step down.
pub const LATE_FRAMES: u32 = 3;
/// Or late for as long as this, nanoseconds: slow streams have few frames in a second.
pub const LATE_NANOS: u64 = 300_000_000;
/// A frame is well in time when it takes at most this part of the deadline.
pub const EASY_SHARE: f64 = 0.7;
/// How long frames must be well in time before a step back, nanoseconds, and the longest that this becomes.
pub const EASY_NANOS: u64 = 2_000_000_000;
/// See [`EASY_NANOS`].
pub const MAX_EASY_NANOS: u64 = 32_000_000_000;
/// A step back that is late within this time was too early, nanoseconds.
const REGRET_NANOS: u64 = 5_000_000_000;

/// Watches latencies and says at which step of the ladder the next frame is computed. Knows no clock: times come in.
#[derive(Clone, Debug)]
pub struct Deadline {
    limit_nanos: u64,
    step: usize,
    late_frames: u32,
    late_nanos: u64,
    /// Since when frames have been well in time.
    easy_since: Option<u64>,
    easy_nanos: u64,
    /// When the last step back was made.
    stepped_back: Option<u64>,
}

impl Deadline {
    /// Nothing is given up yet.
    pub fn new(limit: Duration) -> Self {
        Self {
            limit_nanos: super::nanos(limit).max(1),
            step: 0,
            late_frames: 0,
            late_nanos: 0,
            easy_since: None,
            easy_nanos: EASY_NANOS,
            stepped_back: None,
        }
    }

    /// Index into [`LADDER`] for the next frame.
    pub fn step(&self) -> usize {
        self.step
    }

    /// A frame was ready at `now_nanos` (of any steady clock), `latency_nanos` after it was captured.
    pub fn observe(&mut self, now_nanos: u64, latency_nanos: u64) {
        if latency_nanos > self.limit_nanos {
            self.easy_since = None;
            self.late_frames += 1;
            self.late_nanos = self.late_nanos.saturating_add(latency_nanos);
            if self.late_frames < LATE_FRAMES && self.late_nanos < LATE_NANOS {
                return;
            }
            if self.step + 1 < LADDER.len() {
                let far = latency_nanos / 2 >= self.limit_nanos;
                self.step = (self.step + if far { 2 } else { 1 }).min(LADDER.len() - 1);
            }
            if self.stepped_back.take().is_some_and(|back| now_nanos.saturating_sub(back) <= REGRET_NANOS) {
                self.easy_nanos = (2 * self.easy_nanos).min(MAX_EASY_NANOS);
            }
            (self.late_frames, self.late_nanos) = (0, 0);
            return;
        }
        (self.late_frames, self.late_nanos) = (0, 0);
        if self.stepped_back.is_some_and(|back| now_nanos.saturating_sub(back) > REGRET_NANOS) {
            // It went well.
            self.stepped_back = None;
            self.easy_nanos = EASY_NANOS;
        }
        if latency_nanos as f64 > EASY_SHARE * self.limit_nanos as f64 || self.step == 0 {
            self.easy_since = None;
            return;
        }
        let since = *self.easy_since.get_or_insert(now_nanos);
        if now_nanos.saturating_sub(since) >= self.easy_nanos {
            self.step -= 1;
            self.easy_since = None;
            self.stepped_back = Some(now_nanos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u64 = 1_000_000;

    /// A machine that needs `base` milliseconds for a whole frame, and these parts of it at the steps.
    fn latency(base: u64, step: usize) -> u64 {
        base * MILLI * [100, 95, 85, 60, 35][step] / 100
    }

    /// Plays frames back to back until `end` (milliseconds); returns the step over time.
    fn play(deadline: &mut Deadline, now: &mut u64, end: u64, base: u64) -> Vec<(u64, usize)> {
        let mut steps = Vec::new();
        while *now < end * MILLI {
            let took = latency(base, deadline.step());
            *now += took;
            deadline.observe(*now, took);
            steps.push((*now / MILLI, deadline.step()));
        }
        steps
    }

    #[test]
    fn it_reacts_within_a_second_and_recovers() {
        for (base, limit) in [(50, 100), (20, 33), (100, 250)] {
            let (mut deadline, mut now) = (Deadline::new(Duration::from_millis(limit)), 0);
            let usual = play(&mut deadline, &mut now, 2000, base);
            assert!(usual.iter().all(|&(_, step)| step == 0), "{usual:?}");
            // The machine becomes slower by a factor that the ladder can make up for.
            let slow = limit * 2;
            let under_load = play(&mut deadline, &mut now, 4000, slow);
            let begin = under_load[0].0;
            let reacted = under_load.iter().find(|&&(_, step)| latency(slow, step) <= limit * MILLI).unwrap();
            assert!(reacted.0 - begin <= 1000, "{base} {limit}: {under_load:?}");
            assert_eq!(deadline.step(), 4);
            let after = play(&mut deadline, &mut now, 30_000, base);
            assert_eq!(after.last().unwrap().1, 0, "{base} {limit}");
        }
    }

    #[test]
    fn one_late_frame_changes_nothing() {
        let mut deadline = Deadline::new(Duration::from_millis(50));
        for frame in 0..1000 {
            let took = if frame % 3 == 0 { 90 } else { 20 };
            deadline.observe(frame * 33 * MILLI, took * MILLI);
        }
        assert_eq!(deadline.step(), 0);
    }

    #[test]
    fn a_machine_that_is_just_too_slow_does_not_go_up_and_down_for_ever() {
        // Late at step 0, well in time from step 3 on.
        let (mut deadline, mut now) = (Deadline::new(Duration::from_millis(100)), 0);
        let steps = play(&mut deadline, &mut now, 300_000, 110);
        let changes = steps.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
        assert!(changes < 60, "{changes} changes in five minutes");
        let late = steps.iter().filter(|&&(_, step)| latency(110, step) > 100 * MILLI).count();
        assert!(late * 20 < steps.len(), "{late} of {}", steps.len());
    }

    #[test]
    fn the_ladder_gives_up_more_at_each_step() {
        for pair in LADDER.windows(2) {
            assert!(pair[1].max_rounds <= pair[0].max_rounds && pair[1].input_scale <= pair[0].input_scale);
            assert!(pair[0].refine || !pair[1].refine);
            assert_ne!(pair[0], pair[1]);
        }
    }
}
