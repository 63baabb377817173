//! What a person sees of a run while it goes on, on stderr.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use puna_kernels::peak_rss_bytes;
use puna_train::log::StepMetrics;
use puna_train::{Event, MemoryNeed};

use crate::output;
use crate::units::{bytes, count};

/// Without a terminal a line is written this often at most.
const QUIET: Duration = Duration::from_secs(10);

/// Arithmetic that a run is expected to reach, as a share of the machine's peak, until the first
/// step says better.
const EXPECTED_SHARE: f64 = 0.5;

pub(super) struct Show {
    bar: Option<ProgressBar>,
    steps: u64,
    need: u64,
    last_line: Option<Instant>,
    first: bool,
}

impl Show {
    pub(super) fn new() -> Self {
        Self { bar: None, steps: 0, need: 0, last_line: None, first: true }
    }

    pub(super) fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Begin { parameters, steps, need, flops_per_step, peak } => {
                self.begin(*parameters, *steps, need, (*flops_per_step, *peak));
            }
            Event::Step(metrics) => self.step(metrics),
            Event::Validation(metrics) => {
                let (step, loss) = (metrics.step, metrics.validation_loss);
                self.note(&format!("step {step}: validation loss {loss:.4}"));
            }
            Event::Sample { step, prompt, text } => {
                self.note(&format!("step {step}: {prompt}|{text}"));
            }
            Event::Saved(checkpoint) => self.note(&format!("saved {}", checkpoint.path.display())),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn begin(
        &mut self,
        parameters: u64,
        (steps, done): (u64, u64),
        need: &MemoryNeed,
        (flops, peak): (f64, Option<f64>),
    ) {
        (self.steps, self.need) = (steps, need.total());
        output::note(&format!("{} parameters, {steps} steps", count(parameters)));
        let MemoryNeed { weights, gradients, optimizer, activations, rest } = *need;
        output::note(&format!(
            "memory needed: {} (weights {}, gradients {}, optimizer {}, activations {}, rest {})",
            bytes(need.total()),
            bytes(weights),
            bytes(gradients),
            bytes(optimizer),
            bytes(activations),
            bytes(rest)
        ));
        if let Some(peak) = peak {
            let secs = (steps - done.min(steps)) as f64 * flops / (EXPECTED_SHARE * peak);
            output::note(&format!(
                "time expected: {} ({:.2e} FLOPs per step, {:.0} % of {:.0} GFLOP/s)",
                time(secs),
                flops,
                100.0 * EXPECTED_SHARE,
                peak / 1e9
            ));
        }
        if stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr());
            let template = "{bar:24} {pos}/{len} {msg} eta {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_position(done);
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    fn step(&mut self, metrics: &StepMetrics) {
        if std::mem::take(&mut self.first) {
            self.check_first(metrics);
        }
        let line = describe(metrics);
        if let Some(bar) = &self.bar {
            bar.set_position(metrics.step);
            bar.set_message(line);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= QUIET);
        if due || metrics.step == self.steps {
            self.last_line = Some(Instant::now());
            output::note(&format!("step {}/{}: {line}", metrics.step, self.steps));
        }
    }

    /// What was said before the first step, against what it took.
    fn check_first(&self, metrics: &StepMetrics) {
        let left = (self.steps - metrics.step.min(self.steps)) as f64 * metrics.seconds;
        let taken = metrics.device_bytes.or_else(peak_rss_bytes);
        let memory = taken.map_or_else(String::new, |peak| {
            let over = if peak > self.need + self.need / 4 { ", more than expected" } else { "" };
            format!(", memory {}{over}", bytes(peak))
        });
        self.note(&format!(
            "first step: {:.2} s, so {} to go{memory}",
            metrics.seconds,
            time(left)
        ));
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| output::note(text)),
            None => output::note(text),
        }
    }
}

fn describe(metrics: &StepMetrics) -> String {
    let mut line = format!(
        "loss {:.4} lr {:.2e} norm {:.2} {:.0} tok/s",
        metrics.loss, metrics.lr, metrics.grad_norm, metrics.tokens_per_second
    );
    if let Some(share) = metrics.mfu {
        line.push_str(&format!(" mfu {:.0} %", 100.0 * share));
    }
    if let Some(rss) = metrics.device_bytes.or(metrics.rss_bytes) {
        line.push_str(&format!(" {}", bytes(rss)));
    }
    line
}

/// Seconds as people read them.
fn time(secs: f64) -> String {
    match secs {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_given_in_the_unit_that_fits() {
        assert_eq!(time(12.3), "12 s");
        assert_eq!(time(600.0), "10 min");
        assert_eq!(time(7200.0), "2.0 h");
        assert_eq!(time(864_000.0), "10.0 days");
    }
}
