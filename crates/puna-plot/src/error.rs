//! What can go wrong with a picture.

use std::path::PathBuf;

use puna_io::IoError;

/// Error of a picture.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The picture.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file could not be replaced as a whole.
    #[error(transparent)]
    Replace(#[from] IoError),
    /// The picture could not be drawn.
    #[error("cannot draw {}: {reason}", path.display())]
    Draw {
        /// The picture.
        path: PathBuf,
        /// What the library says.
        reason: String,
    },
}
