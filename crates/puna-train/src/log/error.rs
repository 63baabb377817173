//! What can go wrong while a run writes about itself.

use std::path::PathBuf;

use puna_io::IoError;
use puna_plot::PlotError;

/// Error of a run's records and pictures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A record could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A record could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A record could not be replaced as a whole.
    #[error(transparent)]
    Replace(#[from] IoError),
    /// A line that is no metrics.
    #[error("{}, line {line}: not a line of metrics", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// There is nothing to draw.
    #[error("no step has a finite loss: there is no curve to draw")]
    NoCurve,
    /// The picture could not be drawn or written.
    #[error(transparent)]
    Plot(Box<PlotError>),
}

impl From<PlotError> for LogError {
    fn from(error: PlotError) -> Self {
        Self::Plot(Box::new(error))
    }
}

impl LogError {
    /// For `map_err`: a file that cannot be written.
    pub(super) fn write(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Write { path, source }
    }
}
