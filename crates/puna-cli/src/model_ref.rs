//! What MODEL means: a path, a built-in name or a Hub id, tried in this order.
//!
//! A path that exists always wins, so that a folder named like a Hub id is never shadowed by the
//! network. A Hub id is looked up in the cache first; only if it is not there is it downloaded, with
//! a progress bar (and never with `HF_HUB_OFFLINE=1`).

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use puna_io::hub::{self, HubRequest};

use crate::embedded::{self, BuiltIn};
use crate::progress::{Progress, Unit};
use crate::report::Hint;

/// A model that is on this machine.
#[derive(Debug, Clone)]
pub(crate) enum ModelRef {
    /// Part of the binary.
    BuiltIn(&'static BuiltIn),
    /// A folder or a file.
    Path(PathBuf),
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(model) => write!(f, "{} (built in)", model.name),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Finds a model; without a name the default one.
pub(crate) fn resolve(name: Option<&str>) -> anyhow::Result<ModelRef> {
    let Some(name) = name else { return Ok(ModelRef::BuiltIn(embedded::DEFAULT)) };
    if Path::new(name).exists() {
        return Ok(ModelRef::Path(name.into()));
    }
    if let Some(model) = embedded::find(name) {
        return Ok(ModelRef::BuiltIn(model));
    }
    match hub_request(name, None) {
        Some(request) => Ok(ModelRef::Path(from_hub(&request)?)),
        None => Err(not_found(name)).hint(
            "MODEL is a folder, a file, a Hub id (org/name or org/name:file.gguf) or a built-in \
             name",
        ),
    }
}

/// `org/name` or `org/name:file`, with the characters that the Hub allows.
pub(crate) fn hub_request(id: &str, revision: Option<&str>) -> Option<HubRequest> {
    let (repo, file) = match id.split_once(':') {
        Some((repo, file)) => (repo, Some(file)),
        None => (id, None),
    };
    let (org, name) = repo.split_once('/')?;
    let allowed = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-', '~'])
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if !allowed(org) || !allowed(name) || file.is_some_and(str::is_empty) {
        return None;
    }
    Some(HubRequest {
        repo: repo.to_string(),
        revision: revision.map(str::to_string),
        file: file.map(str::to_string),
    })
}

fn from_hub(request: &HubRequest) -> anyhow::Result<PathBuf> {
    match hub::cached(request)? {
        Some(path) => Ok(path),
        None => download(request).hint(format!(
            "neither a file or folder nor a built-in model is called {}; it was taken for a Hub id",
            request.repo
        )),
    }
}

/// Downloads with a bar per file.
pub(crate) fn download(request: &HubRequest) -> anyhow::Result<PathBuf> {
    let mut current: Option<(String, Progress)> = None;
    let path = hub::pull(request, &mut |step| {
        if current.as_ref().is_none_or(|(file, _)| *file != step.file) {
            if let Some((_, bar)) = current.take() {
                bar.finish();
            }
            current = Some((step.file.to_string(), Progress::new(step.file, Unit::Bytes)));
        }
        if let Some((_, bar)) = &mut current {
            bar.update(step.done, step.total.unwrap_or(0));
        }
    })?;
    if let Some((_, bar)) = current {
        bar.finish();
    }
    Ok(path)
}

fn not_found(name: &str) -> anyhow::Error {
    let built_in: Vec<&str> = embedded::ALL.iter().map(|model| model.name).collect();
    anyhow!(
        "no model `{name}`: there is no such file or folder, the built-in models are {}, and it is \
         no Hub id",
        built_in.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::hub_request;

    #[test]
    fn hub_ids_are_told_from_paths() {
        let request = hub_request("org/name-1.0:sub/file.gguf", Some("main")).unwrap();
        assert_eq!(request.repo, "org/name-1.0");
        assert_eq!(request.file.as_deref(), Some("sub/file.gguf"));
        assert_eq!(request.revision.as_deref(), Some("main"));
        for path in ["./name", "../name", "/abs/name", "a/b/c", "name", "~/name", "org/", "a/b:"] {
            assert!(hub_request(path, None).is_none(), "{path}");
        }
    }

    #[test]
    fn the_error_lists_what_was_tried() {
        let message = super::resolve(Some("nonsense")).unwrap_err().to_string();
        assert!(message.contains("no such file") && message.contains("puna-mini"), "{message}");
    }
}
