//! What a reader should know before believing a plan.

use std::fmt;

use super::Repeated;
use crate::law::{Allocation, LawName};
use crate::repeated::MOST_EPOCHS;

/// Tokens per parameter beyond which a law fitted below 100 promises too much.
pub const MANY_TOKENS: f64 = 500.0;

/// One warning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warning {
    /// Far more tokens per parameter than in any run that the law was fitted on.
    ManyTokens {
        /// Tokens per parameter.
        ratio: f64,
    },
    /// More repetitions than the law of repeated data was fitted on.
    ManyEpochs {
        /// Times that each token is seen.
        epochs: f64,
    },
    /// The rounded constants.
    Rounded,
}

pub(super) fn of(chosen: &Allocation, law: LawName, repeated: Option<&Repeated>) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let ratio = chosen.ratio();
    if ratio > MANY_TOKENS {
        warnings.push(Warning::ManyTokens { ratio });
    }
    if let Some(repeated) = repeated.filter(|repeated| repeated.epochs > MOST_EPOCHS) {
        warnings.push(Warning::ManyEpochs { epochs: repeated.epochs });
    }
    if law == LawName::Hoffmann2022Rounded {
        warnings.push(Warning::Rounded);
    }
    warnings
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManyTokens { ratio } => write!(
                f,
                "{ratio:.0} tokens per parameter: the laws were fitted below about 100 and promise \
                 too much beyond {MANY_TOKENS:.0}"
            ),
            Self::ManyEpochs { epochs } => write!(
                f,
                "each token is seen {epochs:.0} times: beyond about {MOST_EPOCHS:.0} a model \
                 overfits, which the law cannot show; gather more text or take a smaller model"
            ),
            Self::Rounded => f.write_str(
                "hoffmann2022_rounded gives far too many tokens per parameter (its digits are \
                 rounded too far)",
            ),
        }
    }
}
