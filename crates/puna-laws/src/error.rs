//! What can go wrong with laws and fits.

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
}
