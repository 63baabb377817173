//! Progress bars on stderr: only for what takes longer than a moment, never without a terminal.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is shown before this much time has passed.
const PATIENCE: Duration = Duration::from_millis(700);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, shown as GiB, MiB, …
    Bytes,
    /// Tokens.
    Tokens,
    /// Fits.
    Fits,
    /// Steps of a training.
    Steps,
}

/// A bar that appears once the work turns out to be long.
pub(crate) struct Progress {
    label: String,
    unit: Unit,
    started: Instant,
    bar: Option<ProgressBar>,
    shown: bool,
}

impl Progress {
    pub(crate) fn new(label: impl Into<String>, unit: Unit) -> Self {
        Self {
            label: label.into(),
            unit,
            started: Instant::now(),
            bar: None,
            shown: stderr().is_terminal(),
        }
    }

    /// Tells how far the work is.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        if !self.shown || (self.bar.is_none() && self.started.elapsed() < PATIENCE) {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(&self.label, self.unit));
        bar.set_length(total);
        bar.set_position(done);
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(label: &str, unit: Unit) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = match unit {
        Unit::Bytes => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        Unit::Tokens => "{msg} {bar:30} {pos}/{len} tokens {per_sec} eta {eta}",
        Unit::Fits | Unit::Steps => "{msg} {bar:30} {pos}/{len} {per_sec} eta {eta}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(label.to_string());
    bar
}

/// Shows that work of unknown length goes on; gone when dropped.
pub(crate) struct Spinner {
    bar: Option<ProgressBar>,
}

impl Spinner {
    pub(crate) fn new(label: impl Into<String>) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(label.into());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
