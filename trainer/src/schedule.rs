//! Learning rate over the steps of a run (method.md §6).

use serde::{Deserialize, Serialize};

/// How the learning rate falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// ×0.1 at 32 %, 56 % and 75 % of the run.
    Step,
    /// base · (1 − step / steps)^0.9.
    Poly,
}

/// Learning rate that the linear warm-up starts from, as a share of the base rate.
const WARM_UP_START: f64 = 0.1;

/// Learning rate of step `step` (from 0) of a run of `steps` steps.
///
/// For the first `warm_up` steps a linear ramp from a tenth of `base` to `base` replaces the schedule as long as it
/// lies below it.
pub fn learning_rate(decay: Decay, base: f64, step: usize, steps: usize, warm_up: usize) -> f64 {
    let done = step as f64 / steps.max(1) as f64;
    let scheduled = match decay {
        Decay::Step => base * 0.1f64.powi([0.32, 0.56, 0.75].iter().filter(|&&mark| done >= mark).count() as i32),
        Decay::Poly => base * (1.0 - done).max(0.0).powf(0.9),
    };
    if step >= warm_up {
        return scheduled;
    }
    let share = step as f64 / warm_up as f64;
    scheduled.min(base * (WARM_UP_START + (1.0 - WARM_UP_START) * share))
}
