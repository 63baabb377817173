//! What can go wrong with a checkpoint, always with the path and, where there is one, the
//! tensor or key.
//!
//! Most damage fits one shape: at some place of a file, something was expected and something
//! else was there. Those cases share [`IoError::Invalid`] and [`IoError::InvalidTensor`] instead
//! of a variant per check, since a caller treats them all alike.

use std::path::{Path, PathBuf};

/// An error of reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IoError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Os {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, as a verb phrase: `open`, `map`, `write`.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A part of a file (header, directory, key) is not what its format says.
    #[error("{}: {at}: expected {expected}, got {got}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The part of the file, or the key.
        at: String,
        /// What the format asks for.
        expected: String,
        /// What the file has.
        got: String,
    },
    /// A tensor's entry or bytes are not what its format says.
    #[error("{}: tensor `{tensor}`: expected {expected}, got {got}", path.display())]
    InvalidTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What the format asks for.
        expected: String,
        /// What the file has.
        got: String,
    },
    /// A tensor is stored as something puna does not read.
    #[error("{}: tensor `{tensor}` has the unsupported type {kind}", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The type, as its format calls it.
        kind: String,
    },
    /// The file uses a feature of its format that puna does not read.
    #[error("{}: {at}: {feature} is not supported", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The part of the file.
        at: String,
        /// The feature.
        feature: String,
    },
    /// There is no tensor of that name.
    #[error("{}: there is no tensor `{tensor}`", path.display())]
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
    },
    /// A file that another file or the naming scheme promises is absent.
    #[error("{}: missing, although {} refers to it", path.display(), named_by.display())]
    MissingFile {
        /// The absent file.
        path: PathBuf,
        /// What promises it.
        named_by: PathBuf,
    },
    /// The folder or file is no checkpoint in any container puna knows.
    #[error("{}: no checkpoint here; found {}", path.display(), list(found))]
    NotACheckpoint {
        /// The folder or file.
        path: PathBuf,
        /// What is there instead: some file names, or the first bytes of the file.
        found: Vec<String>,
    },
    /// The folder holds several checkpoints.
    #[error("{}: several checkpoints here, name one: {}", path.display(), list(candidates))]
    Ambiguous {
        /// The folder.
        path: PathBuf,
        /// File names to choose from.
        candidates: Vec<String>,
    },
    /// A pickle asks for something that is not part of a tensor.
    #[error(
        "{}: the pickle wants to call {global}; puna builds tensors and nothing else",
        path.display()
    )]
    ForbiddenPickle {
        /// The file.
        path: PathBuf,
        /// The Python global, `module.name`.
        global: String,
    },
    /// A count or length in a file is beyond the limit that bounds memory.
    #[error("{}: {at} is {got}, above the limit of {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// What is counted.
        at: String,
        /// The largest accepted value.
        limit: u64,
        /// The file's value.
        got: u64,
    },
    /// A size given by the user (`--max-shard-size`) cannot be read.
    #[error("`{text}` is no size; write a number and a unit, as in 5GB, 500MB or 2GiB")]
    SizeSyntax {
        /// What was given.
        text: String,
    },
    /// The Hub gave no answer, or the connection broke.
    #[error("{url}: no answer from the Hub: {source}")]
    HubUnreachable {
        /// The address asked.
        url: String,
        /// What happened.
        source: Box<ureq::Error>,
    },
    /// The Hub answered with an error.
    #[error("{url}: the Hub answers {status}: {reason}")]
    HubRefused {
        /// The address asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it means here.
        reason: String,
    },
    /// The Hub's answer is not what its protocol says.
    #[error("{url}: {at}: expected {expected}, got {got}")]
    HubAnswer {
        /// The address asked.
        url: String,
        /// The part of the answer.
        at: &'static str,
        /// What the protocol asks for.
        expected: String,
        /// What the answer has.
        got: String,
    },
    /// A name, from the user or from the Hub, that cannot be used in paths and addresses.
    #[error("`{}` is not accepted as {kind}", name.escape_debug())]
    HubName {
        /// The name.
        name: String,
        /// What it should be.
        kind: &'static str,
    },
    /// The repository has no file of that name.
    #[error("{repo} has no file {file}; it has {}", list(found))]
    HubFile {
        /// The repository.
        repo: String,
        /// The name asked for.
        file: String,
        /// The files it has instead.
        found: Vec<String>,
    },
    /// Something is not in the cache, and the network may not be used.
    #[error(
        "{what} is not in the cache {} and HF_HUB_OFFLINE forbids to download it",
        cache.display()
    )]
    HubOffline {
        /// Repository and revision or file.
        what: String,
        /// The cache.
        cache: PathBuf,
    },
}

impl IoError {
    /// Builds a closure for `map_err` on a system call concerning `path`.
    pub fn os(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Os { path, action, source }
    }

    /// An [`IoError::Invalid`] from anything printable.
    pub fn invalid(
        path: &Path,
        at: impl ToString,
        expected: impl ToString,
        got: impl ToString,
    ) -> Self {
        Self::Invalid {
            path: path.to_path_buf(),
            at: at.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }

    /// An [`IoError::InvalidTensor`] from anything printable.
    pub fn tensor(path: &Path, tensor: &str, expected: impl ToString, got: impl ToString) -> Self {
        Self::InvalidTensor {
            path: path.to_path_buf(),
            tensor: tensor.to_owned(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

/// Names at most this many entries of a list in an error.
const LISTED: usize = 12;

fn list(names: &[String]) -> String {
    match names.len() {
        0 => "nothing".to_owned(),
        n if n <= LISTED => names.join(", "),
        n => format!("{}, and {} more", names[..LISTED].join(", "), n - LISTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        let names: Vec<String> = (0..14).map(|i| i.to_string()).collect();
        assert_eq!(list(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, and 2 more");
        assert_eq!(list(&[]), "nothing");
    }
}
