//! All records of a run under one roof.

use std::path::{Path, PathBuf};

use super::error::LogError;
use super::events::EventWriter;
use super::metrics::{Metrics, MetricsLog, read_metrics};
use super::plot::plot_loss;
use puna_plot::Picture;

/// Names inside a run's folder.
const METRICS: &str = "metrics.jsonl";
const TENSORBOARD: &str = "tensorboard";

/// The records of a run: `metrics.jsonl`, `tensorboard/`, and at the end `loss.svg` and
/// `loss.png`.
#[derive(Debug)]
pub struct RunLog {
    dir: PathBuf,
    metrics: MetricsLog,
    events: EventWriter,
}

impl RunLog {
    /// Begins the records of a new run in its folder, which must exist.
    ///
    /// # Errors
    /// If they cannot be created.
    pub fn begin(dir: &Path) -> Result<Self, LogError> {
        let metrics = MetricsLog::begin(&dir.join(METRICS))?;
        let events = EventWriter::create(&dir.join(TENSORBOARD), 0)?;
        Ok(Self { dir: dir.to_path_buf(), metrics, events })
    }

    /// Continues the records of a run from its checkpoint after `step` steps; what they say of
    /// later steps is taken back.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub fn resume(dir: &Path, step: u64) -> Result<Self, LogError> {
        let metrics = MetricsLog::resume(&dir.join(METRICS), step)?;
        let events = EventWriter::create(&dir.join(TENSORBOARD), step + 1)?;
        Ok(Self { dir: dir.to_path_buf(), metrics, events })
    }

    /// Records a line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn record(&mut self, metrics: &Metrics) -> Result<(), LogError> {
        self.metrics.append(metrics)?;
        match metrics {
            Metrics::Step(m) => {
                let mut scalars = vec![
                    ("train/loss", m.loss),
                    ("train/learning_rate", m.lr),
                    ("train/grad_norm", m.grad_norm),
                    ("train/tokens_per_second", m.tokens_per_second),
                ];
                scalars.extend(m.load_balance.map(|loss| ("train/load_balance", loss)));
                self.events.scalars(m.step, &scalars)
            }
            Metrics::Validation(m) => {
                self.events.scalars(m.step, &[("validation/loss", m.validation_loss)])
            }
        }
    }

    /// Draws the loss curve of everything recorded; gives the SVG and the PNG.
    ///
    /// # Errors
    /// If there is no finite loss, or a picture cannot be written.
    pub fn draw(&self, title: &str) -> Result<[PathBuf; 2], LogError> {
        let metrics = read_metrics(self.metrics.path())?;
        let svg = self.dir.join("loss.svg");
        let png = self.dir.join("loss.png");
        plot_loss(&metrics, title, Picture::Svg, &svg)?;
        plot_loss(&metrics, title, Picture::Png, &png)?;
        Ok([svg, png])
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{StepMetrics, ValidationMetrics};
    use super::*;

    #[test]
    fn a_run_leaves_its_numbers_its_events_and_two_pictures() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = RunLog::begin(dir.path()).unwrap();
        assert!(matches!(log.draw("empty"), Err(LogError::NoCurve)));
        for step in 1..=20 {
            let loss = 5.0 / step as f64;
            let metrics = StepMetrics { step, tokens: step * 64, loss, ..Default::default() };
            log.record(&Metrics::Step(metrics)).unwrap();
        }
        let held_out = ValidationMetrics { step: 20, validation_loss: 0.5, ..Default::default() };
        log.record(&Metrics::Validation(held_out)).unwrap();
        drop(log);
        let log = RunLog::resume(dir.path(), 10).unwrap();
        assert_eq!(read_metrics(&dir.path().join(METRICS)).unwrap().len(), 10);
        let [svg, png] = log.draw("a run").unwrap();
        assert!(std::fs::read_to_string(svg).unwrap().contains("a run"));
        assert!(std::fs::read(png).unwrap().starts_with(b"\x89PNG"));
        assert_eq!(std::fs::read_dir(dir.path().join(TENSORBOARD)).unwrap().count(), 2);
    }
}
