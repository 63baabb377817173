//! `metrics.jsonl`: a line per step, and a line per validation.
//!
//! A line is written with one call and needs no closing: whatever stops the run, at most the last
//! line is torn, and readers leave that one out. Numbers that JSON lacks (a loss that is NaN) are
//! `null`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use puna_io::AtomicFile;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::LogError;

/// A line of the record.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metrics {
    /// Of a training step.
    Step(StepMetrics),
    /// Of a validation.
    Validation(ValidationMetrics),
}

/// What is known after a training step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, this one included.
    pub step: u64,
    /// Tokens seen until now, this step's included.
    pub tokens: u64,
    /// Mean loss of the step's targets, in nats per token.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the whole gradient before clipping.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Load-balancing loss of mixtures of experts, 1 where all experts are used alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balance: Option<f64>,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Model FLOP utilization: share of the measured peak, 0 to 1, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Resident memory after the step, in bytes, where the system tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Memory of the GPU that is taken after the step, by whomever, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// Seconds that the step took.
    pub seconds: f64,
}

/// What is known after a validation.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ValidationMetrics {
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Mean loss of the held-out targets, in nats per token.
    #[serde(deserialize_with = "number")]
    pub validation_loss: f64,
    /// Seconds that the validation took.
    pub seconds: f64,
}

/// A number, or NaN for `null`.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Metrics {
    /// Steps done.
    pub fn step(&self) -> u64 {
        match self {
            Self::Step(metrics) => metrics.step,
            Self::Validation(metrics) => metrics.step,
        }
    }
}

/// The record of a run, open for more lines.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Begins a record anew; what the file held is gone.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn begin(path: &Path) -> Result<Self, LogError> {
        let file = File::create(path).map_err(LogError::write(path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Continues a record from a checkpoint after `step` steps: lines of later steps, and a torn
    /// last line, are taken out, as the steps will be done again. A missing file is an empty one.
    ///
    /// # Errors
    /// If it cannot be read or replaced, or a line before the last is no metrics.
    pub fn resume(path: &Path, step: u64) -> Result<Self, LogError> {
        let bytes = read_or_empty(path)?;
        let mut kept = Vec::with_capacity(bytes.len());
        for line in lines(&bytes, path)? {
            if line.metrics.step() <= step {
                kept.extend_from_slice(line.text);
                kept.push(b'\n');
            }
        }
        if kept != bytes {
            let mut file = AtomicFile::create(path)?;
            file.append(&kept)?;
            file.commit()?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(LogError::write(path))?;
        Ok(Self { path: path.to_path_buf(), file })
    }

    /// Adds a line; it is with the operating system when this returns.
    ///
    /// # Errors
    /// If it cannot be written, such as on a full disk.
    pub fn append(&mut self, metrics: &Metrics) -> Result<(), LogError> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|error| LogError::write(&self.path)(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(LogError::write(&self.path))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Reads a record; a torn last line is left out.
///
/// # Errors
/// If it cannot be read, or a line before the last is no metrics.
pub fn read_metrics(path: &Path) -> Result<Vec<Metrics>, LogError> {
    let bytes = std::fs::read(path)
        .map_err(|source| LogError::Read { path: path.to_path_buf(), source })?;
    Ok(lines(&bytes, path)?.into_iter().map(|line| line.metrics).collect())
}

fn read_or_empty(path: &Path) -> Result<Vec<u8>, LogError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(LogError::Read { path: path.to_path_buf(), source }),
    }
}

/// A whole line.
struct Line<'a> {
    text: &'a [u8],
    metrics: Metrics,
}

fn lines<'a>(bytes: &'a [u8], path: &Path) -> Result<Vec<Line<'a>>, LogError> {
    let mut found = Vec::new();
    let mut pieces = bytes.split(|&byte| byte == b'\n').enumerate().peekable();
    while let Some((index, text)) = pieces.next() {
        let is_last = pieces.peek().is_none();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(metrics) => found.push(Line { text, metrics }),
            // Only what the final line break is missing from can be torn.
            Err(_) if is_last => {}
            Err(source) => {
                let (path, line) = (path.to_path_buf(), index + 1);
                return Err(LogError::Line { path, line, source });
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Metrics {
        let loss = 10.0 / (step + 1) as f64;
        Metrics::Step(StepMetrics { step, tokens: step * 512, loss, ..StepMetrics::default() })
    }

    fn validation(step: u64) -> Metrics {
        let metrics = ValidationMetrics { step, validation_loss: 3.5, ..Default::default() };
        Metrics::Validation(metrics)
    }

    fn steps(path: &Path) -> Vec<u64> {
        read_metrics(path).unwrap().iter().map(Metrics::step).collect()
    }

    #[test]
    fn lines_have_the_names_that_readers_expect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::begin(&path).unwrap();
        let metrics = StepMetrics {
            step: 3,
            tokens: 1536,
            loss: 2.5,
            lr: 0.001,
            grad_norm: 0.75,
            load_balance: None,
            tokens_per_second: 1024.0,
            mfu: Some(0.5),
            rss_bytes: Some(1 << 20),
            device_bytes: None,
            seconds: 0.5,
        };
        log.append(&Metrics::Step(metrics)).unwrap();
        log.append(&validation(3)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"step\":3,\"tokens\":1536,\"loss\":2.5,\"lr\":0.001,\"grad_norm\":0.75,\
             \"tokens_per_second\":1024.0,\"mfu\":0.5,\"rss_bytes\":1048576,\"seconds\":0.5}\n\
             {\"step\":3,\"tokens\":0,\"validation_loss\":3.5,\"seconds\":0.0}\n"
        );
        assert_eq!(read_metrics(&path).unwrap(), [Metrics::Step(metrics), validation(3)]);
    }

    #[test]
    fn a_continued_run_has_one_curve() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::begin(&path).unwrap();
        for i in 1..=5 {
            log.append(&step(i)).unwrap();
        }
        log.append(&validation(5)).unwrap();
        drop(log);
        let mut log = MetricsLog::resume(&path, 3).unwrap();
        assert_eq!(steps(&path), [1, 2, 3]);
        log.append(&step(4)).unwrap();
        assert_eq!(steps(&path), [1, 2, 3, 4]);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = MetricsLog::begin(&path).unwrap();
        log.append(&step(1)).unwrap();
        log.append(&step(2)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        assert_eq!(steps(&path), [1]);
        MetricsLog::resume(&path, 9).unwrap().append(&step(2)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        std::fs::write(&path, b"{\"step\": 1}\n{}\n").unwrap();
        let error = read_metrics(&path).unwrap_err().to_string();
        assert!(error.ends_with("metrics.jsonl, line 1: not a line of metrics"), "{error}");
        assert!(MetricsLog::resume(&dir.path().join("new.jsonl"), 0).is_ok());
    }

    #[test]
    fn a_loss_that_is_no_number_is_read_back_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let metrics = StepMetrics { loss: f64::NAN, ..StepMetrics::default() };
        MetricsLog::begin(&path).unwrap().append(&Metrics::Step(metrics)).unwrap();
        let [Metrics::Step(back)] = read_metrics(&path).unwrap()[..] else { panic!("one step") };
        assert!(back.loss.is_nan());
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let file = OpenOptions::new().write(true).open(full).unwrap();
        let mut log = MetricsLog { path: full.to_path_buf(), file };
        assert_eq!(log.append(&step(1)).unwrap_err().to_string(), "cannot write /dev/full");
    }
}
