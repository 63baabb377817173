//! Learning rates over a run.

use serde::{Deserialize, Serialize};

/// The shape behind the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleName {
    /// Half a cosine down to the final rate.
    #[default]
    Cosine,
    /// A line down to the final rate.
    Linear,
    /// The peak to the end.
    Constant,
    /// Warmup, stable, decay (MiniCPM, arXiv:2404.06395): the peak, then a line down to the final
    /// rate over the last `decay_steps`.
    Wsd,
}

/// A schedule.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Its shape.
    pub name: ScheduleName,
    /// Steps of the linear rise from 0: step `s` below has `s / warmup_steps` of the peak, so the
    /// first update of a run with warmup has rate 0, as in transformers.
    pub warmup_steps: u64,
    /// The final rate as a share of the peak.
    pub final_lr_fraction: f64,
    /// Steps of the decay at the end, for `wsd`; 0: a tenth of the run.
    pub decay_steps: u64,
}

impl Schedule {
    /// Learning rate of step `step` (from 0) of `steps`, with peak `peak`.
    #[must_use]
    pub fn lr(&self, step: u64, steps: u64, peak: f64) -> f64 {
        if step < self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        let floor = self.final_lr_fraction;
        let done = (step - self.warmup_steps) as f64
            / steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let share = match self.name {
            ScheduleName::Constant => 1.0,
            ScheduleName::Linear => floor + (1.0 - floor) * (1.0 - done.min(1.0)),
            ScheduleName::Cosine => {
                let wave = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
                floor + (1.0 - floor) * wave
            }
            ScheduleName::Wsd => {
                let decay =
                    if self.decay_steps == 0 { steps.div_ceil(10) } else { self.decay_steps };
                let left = steps.saturating_sub(step) as f64 / decay.max(1) as f64;
                floor + (1.0 - floor) * left.min(1.0)
            }
        };
        peak * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_rises_over_the_warmup_and_falls_to_the_floor() {
        let schedule = Schedule {
            name: ScheduleName::Cosine,
            warmup_steps: 4,
            final_lr_fraction: 0.1,
            decay_steps: 0,
        };
        assert_eq!(schedule.lr(0, 104, 1.0), 0.0);
        assert_eq!(schedule.lr(2, 104, 1.0), 0.5);
        assert_eq!(schedule.lr(4, 104, 1.0), 1.0);
        assert!((schedule.lr(54, 104, 1.0) - 0.55).abs() < 1e-12);
        assert!((schedule.lr(104, 104, 1.0) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn the_stable_schedule_decays_over_its_last_steps() {
        let schedule = Schedule {
            name: ScheduleName::Wsd,
            warmup_steps: 0,
            final_lr_fraction: 0.0,
            decay_steps: 20,
        };
        assert_eq!(schedule.lr(79, 100, 2.0), 2.0);
        assert_eq!(schedule.lr(90, 100, 2.0), 1.0);
        let linear = Schedule { name: ScheduleName::Linear, ..schedule };
        assert_eq!(linear.lr(25, 100, 2.0), 1.5);
    }
}
