//! What can be wrong with a config; every variant names the key and the values.

/// Why a config was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The text is no JSON.
    #[error("not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A model that puna does not run.
    #[error("unsupported architecture {name} (in {key})")]
    UnsupportedArchitecture {
        /// Key that names the architecture.
        key: String,
        /// Its value.
        name: String,
    },
    /// A key without which nothing can be said.
    #[error("missing key {key}")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key whose effect on the arithmetic is unknown.
    #[error("unknown key {key} (value {got}); running without knowing its effect could be wrong")]
    UnknownKey {
        /// The key, with its path.
        key: String,
        /// Its value.
        got: String,
    },
    /// A value of the wrong kind.
    #[error("{key} should be {expected}, but is {got}")]
    WrongType {
        /// The key, with its path.
        key: String,
        /// What kind of value belongs there.
        expected: &'static str,
        /// What stands there.
        got: String,
    },
    /// A value of the right kind that is out of range or not supported.
    #[error("{key} is {got}, but must be {expected}")]
    InvalidValue {
        /// The key, with its path.
        key: String,
        /// What stands there.
        got: String,
        /// What may stand there.
        expected: String,
    },
    /// Two values that exclude each other.
    #[error("{key} is {got}, but {other} is {other_got}: {rule}")]
    Contradiction {
        /// One key.
        key: String,
        /// Its value.
        got: String,
        /// The other key.
        other: String,
        /// The other value.
        other_got: String,
        /// What must hold between them.
        rule: &'static str,
    },
    /// A config that the format has no words for.
    #[error("{format} cannot say: {what} {got}")]
    Inexpressible {
        /// The format to be written.
        format: &'static str,
        /// Which part.
        what: &'static str,
        /// Its value.
        got: String,
    },
}

/// `Result` with this crate's error.
pub(crate) type Result<T, E = ConfigError> = std::result::Result<T, E>;

impl ConfigError {
    pub(crate) fn invalid(
        key: impl Into<String>,
        got: impl ToString,
        expected: impl Into<String>,
    ) -> Self {
        Self::InvalidValue { key: key.into(), got: got.to_string(), expected: expected.into() }
    }

    pub(crate) fn contradiction(
        (key, got): (impl Into<String>, impl ToString),
        (other, other_got): (impl Into<String>, impl ToString),
        rule: &'static str,
    ) -> Self {
        Self::Contradiction {
            key: key.into(),
            got: got.to_string(),
            other: other.into(),
            other_got: other_got.to_string(),
            rule,
        }
    }
}
