//! What can go wrong with laws and fits.

use std::path::PathBuf;

use puna_plot::PlotError;
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LawError {
    /// A law's name that is none.
    #[error("there is no law {name:?}; there are {known}")]
    UnknownLaw {
        /// As typed.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A table that could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder that could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A picture that could not be drawn or written.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A table without points.
    #[error("{name} holds no points: a line of column names and a line for each run are needed")]
    Empty {
        /// The table.
        name: String,
    },
    /// A table without the columns that a fit needs.
    #[error("{name} has the columns {found}; needed are {wanted}")]
    Columns {
        /// The table.
        name: String,
        /// The columns it has.
        found: String,
        /// What there should be.
        wanted: &'static str,
    },
    /// A number that cannot be used.
    #[error("{place}: {what} is {value}; a positive number is needed")]
    Value {
        /// Which point, or which line of which file.
        place: String,
        /// The quantity.
        what: &'static str,
        /// What stands there.
        value: String,
    },
    /// Too few points for five constants.
    #[error("{count} points cannot determine a law of five constants; {needed} are the least")]
    FewPoints {
        /// Points there are.
        count: usize,
        /// Points needed.
        needed: usize,
    },
    /// Points that are too much alike.
    #[error(
        "the {points} points have {count} number{} of {what}; {needed} different ones are the least",
        if *count == 1 { "" } else { "s" }
    )]
    FewValues {
        /// Parameters or tokens.
        what: &'static str,
        /// Different values.
        count: usize,
        /// Different values needed.
        needed: usize,
        /// Points there are.
        points: usize,
    },
    /// A fit whose loss does not fall with size and tokens.
    #[error(
        "the points determine no law: in the best fit alpha is {alpha:.4} and beta {beta:.4}, \
         and both must be positive"
    )]
    NoLaw {
        /// Exponent of parameters.
        alpha: f64,
        /// Exponent of tokens.
        beta: f64,
    },
    /// Too few fits for an interval.
    #[error("only {count} resamples gave a law; an interval needs 20")]
    FewResamples {
        /// Laws there are.
        count: usize,
    },
    /// An option out of its range.
    #[error("{option} is {got}; it must be {wanted}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        got: String,
        /// What can be.
        wanted: &'static str,
    },
}
