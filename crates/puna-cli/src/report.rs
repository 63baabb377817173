//! How a command ends: exit codes, error messages and `hint:` lines.
//!
//! Libraries say what is wrong; what a person should type next is known only here. A hint is either
//! attached where the error is made ([`Hint::hint`]) or follows from the kind of the library's error
//! ([`known_hint`]).

mod advice;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::output;
use advice::known_hint;

/// Exit code of an error; clap uses the same for wrong arguments.
const ERROR: u8 = 2;

/// How a command that ran to its end came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Exit code 0.
    Done,
    /// The task's answer is no (a verification that fails): exit code 1.
    No,
}

impl Outcome {
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Done => ExitCode::SUCCESS,
            Self::No => ExitCode::from(1),
        }
    }
}

/// The reader of stdout has gone away, which is no error: `puna … | head` ends with code 0.
#[derive(Debug)]
pub(crate) struct ClosedPipe;

impl fmt::Display for ClosedPipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the reader of the output has closed it")
    }
}

impl Error for ClosedPipe {}

/// An error with advice.
#[derive(Debug)]
struct Hinted {
    hint: String,
    error: anyhow::Error,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// Adds a `hint:` line to an error.
pub(crate) trait Hint<T> {
    /// On error, `hint` is printed below the message.
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> Hint<T> for Result<T, E> {
    fn hint(self, hint: impl Into<String>) -> anyhow::Result<T> {
        self.map_err(|error| anyhow::Error::new(Hinted { hint: hint.into(), error: error.into() }))
    }
}

/// Prints an error and gives the exit code.
pub(crate) fn fail(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<ClosedPipe>()) {
        return ExitCode::SUCCESS;
    }
    show(error);
    ExitCode::from(ERROR)
}

/// Prints an error and its hints to stderr.
pub(crate) fn show(error: &anyhow::Error) {
    output::note(&format!("error: {}", message(error)));
    for hint in hints(error) {
        output::note(&format!("hint: {hint}"));
    }
}

/// The chain of causes as one line; a cause that the text before it already quotes is left out.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if message.is_empty() {
            message = text;
        } else if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
    }
    message
}

fn hints(error: &anyhow::Error) -> Vec<String> {
    let mut hints = Vec::new();
    for cause in error.chain() {
        let found = match cause.downcast_ref::<Hinted>() {
            Some(hinted) => {
                // The wrapped error itself is not in the chain: the wrapper stands for it.
                hints.extend(known_hint(hinted.error.as_ref()).map(str::to_string));
                Some(hinted.hint.clone())
            }
            None => known_hint(cause).map(str::to_string),
        };
        hints.extend(found.filter(|hint| !hint.is_empty()));
    }
    hints.dedup();
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_cause_that_is_already_quoted_is_not_repeated() {
        let inner: anyhow::Result<()> = Err(anyhow!("file f: broken"));
        let error = inner.context("model m: file f: broken").unwrap_err();
        assert_eq!(message(&error), "model m: file f: broken");
        let error = anyhow!("no such file").context("reading f");
        assert_eq!(message(&error), "reading f: no such file");
    }

    #[test]
    fn hints_survive_context_around_them() {
        let inner: Result<(), _> = Err(anyhow!("bad"));
        let error = inner.hint("do this").context("while working").unwrap_err();
        assert_eq!(hints(&error), ["do this"]);
        assert_eq!(message(&error), "while working: bad");
    }
}
