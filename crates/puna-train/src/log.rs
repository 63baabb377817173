//! What a run leaves behind for its reader: numbers per step, and the picture of them.
//!
//! `metrics.jsonl` is the record: one JSON object per line, complete after every line, and cut back
//! to the checkpoint when a run is continued, so that it holds one curve. TensorBoard's event
//! files say the same for those who watch there, and the loss curve is drawn from the record.

mod error;
mod events;
mod metrics;
mod plot;
mod run_log;

pub use error::LogError;
pub use events::EventWriter;
pub use metrics::{Metrics, MetricsLog, StepMetrics, ValidationMetrics, read_metrics};
pub use plot::{Dot, plot_loss, plot_scatter};
pub use puna_plot::Picture;
pub use run_log::RunLog;
