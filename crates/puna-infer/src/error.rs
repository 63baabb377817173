//! What can go wrong while generating, scoring or searching.
//!
//! One enum for the crate; a variant carries the numbers or names a reader needs to act. Errors of
//! the model and of the tokenizer come through whole, as the source of [`InferError::Model`] and
//! [`InferError::Text`], because the generator is generic over both.

use std::error::Error;

/// An error of another crate, carried whole.
pub type Source = Box<dyn Error + Send + Sync + 'static>;

/// Why generation or scoring stopped with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// An option has a value that means nothing.
    #[error("option `{field}` is {value}; expected {expected}")]
    InvalidOption {
        /// The option's name, as in the struct.
        field: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Two options exclude each other.
    #[error("options `{field}` and `{other}` exclude each other")]
    ConflictingOptions {
        /// One option's name.
        field: &'static str,
        /// The other's.
        other: &'static str,
    },
    /// `generation_config.json` is not JSON.
    #[error("generation_config.json is not valid JSON")]
    GenerationConfigSyntax(#[source] serde_json::Error),
    /// A key of `generation_config.json` has a value of the wrong kind.
    #[error("generation_config.json: `{key}` is {got}; expected {expected}")]
    GenerationConfigValue {
        /// The key.
        key: String,
        /// What stands there (shortened).
        got: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// There is nothing to continue.
    #[error("the prompt of sequence {sequence} is empty; a model needs at least one token")]
    EmptyPrompt {
        /// Which sequence of the batch.
        sequence: usize,
    },
    /// A token id lies outside the model's vocabulary.
    #[error(
        "token {token} at position {position} is outside the vocabulary of {vocab_size} tokens"
    )]
    TokenOutOfRange {
        /// Position in the prompt, text or list that holds it.
        position: usize,
        /// The id.
        token: u32,
        /// Rows of the model's vocabulary.
        vocab_size: usize,
    },
    /// The prompt leaves no room to generate.
    #[error(
        "the prompt has {prompt} tokens and {max_new} new ones are wanted, \
         but the context holds {context}"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens wanted.
        max_new: usize,
        /// Tokens the context holds.
        context: usize,
    },
    /// The model gave a logit that is not a finite number.
    #[error("the logit of token {token} is {value}, not a finite number")]
    NonFiniteLogit {
        /// The token.
        token: usize,
        /// Its logit.
        value: f32,
    },
    /// Bias, penalties and a constraint left nothing to choose from.
    #[error("bias, penalties and constraints exclude every token of the vocabulary")]
    NoCandidate,
    /// The model gave another number of logits than the vocabulary has rows.
    #[error("the model gave {got} logits; expected {expected}")]
    LogitCount {
        /// Rows times vocabulary.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// Beam search knows its text only at the end.
    #[error("beam search ({num_beams} beams) cannot stream: its text is known only at the end")]
    BeamsCannotStream {
        /// Beams asked for.
        num_beams: usize,
    },
    /// The model failed.
    #[error("the model failed")]
    Model(#[source] Source),
    /// The tokenizer failed.
    #[error("the tokenizer failed")]
    Text(#[source] Source),
    /// The generator's thread could not be started.
    #[error("the generator's thread could not be started")]
    Thread(#[source] std::io::Error),
    /// The generator's thread panicked.
    #[error("the generator panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
}
