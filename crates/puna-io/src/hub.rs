//! The Hugging Face Hub: download a model into the cache that all Hugging Face tools share.
//!
//! The cache is that of `huggingface_hub` (Python), so a model pulled by either is found by both:
//! ```text
//! models--ORG--NAME/refs/main                    the commit that `main` was at the last pull
//! models--ORG--NAME/blobs/ETAG                   contents, named by hash
//! models--ORG--NAME/blobs/ETAG.incomplete        a download to be resumed
//! models--ORG--NAME/snapshots/COMMIT/config.json a link to its blob
//! ```
//! A reference is written when everything is there; an interrupted pull leaves no model that only
//! looks complete.
//!
//! Written over `ureq` instead of with the `hf-hub` crate: hf-hub 1.0 starts every download anew,
//! does not know HF_HUB_OFFLINE, and brings 284 crates (tokio, reqwest, xet); its blocking
//! predecessor 0.5 ignores HF_TOKEN, HF_HUB_CACHE and offline mode, appends whatever a server sends
//! when it resumes, and panics on a redirect without a target. Neither checks hashes, nor the file
//! names a server sends.
//!
//! Source: docs/hub/api and `file_download.py` of huggingface_hub.

mod cache;
mod client;
mod download;
mod environment;
mod names;
mod select;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::IoError;
use crate::gguf::split;
use cache::RepoCache;
use client::Client;

/// What to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRequest {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` where `None`.
    pub revision: Option<String>,
    /// One file of the repository (of a split GGUF any part, for all); the model where `None`.
    pub file: Option<String>,
}

/// How far the download of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// Bytes on this machine, those of earlier attempts included.
    pub done: u64,
    /// Bytes of the file, once known.
    pub total: Option<u64>,
}

/// Whether the network may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Downloads what is missing.
    Online,
    /// Takes everything from the cache.
    Offline,
}

/// A Hub and its cache on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Hub {
    cache: PathBuf,
    endpoint: String,
    token: Option<String>,
    network: Network,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        f.debug_struct("Hub")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("network", &self.network)
            .finish()
    }
}

/// [`Hub::pull`] with the settings of the environment.
///
/// # Errors
/// As [`Hub::pull`].
pub fn pull(
    request: &HubRequest,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, IoError> {
    Hub::from_env().pull(request, progress)
}

/// [`Hub::cached`] with the settings of the environment.
///
/// # Errors
/// As [`Hub::cached`].
pub fn cached(request: &HubRequest) -> Result<Option<PathBuf>, IoError> {
    Hub::from_env().cached(request)
}

impl Hub {
    /// A Hub at an address (`https://huggingface.co`), with this folder as its cache.
    pub fn new(cache: &Path, endpoint: &str) -> Self {
        Self {
            cache: cache.to_path_buf(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: None,
            network: Network::Online,
        }
    }

    /// The Hub that HF_ENDPOINT, HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_TOKEN_PATH and
    /// HF_HUB_OFFLINE describe, with the defaults of `huggingface_hub`.
    pub fn from_env() -> Self {
        environment::hub(|name| std::env::var(name).ok())
    }

    /// Uses an access token.
    #[must_use]
    pub fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    /// Allows or forbids the network.
    #[must_use]
    pub fn with_network(self, network: Network) -> Self {
        Self { network, ..self }
    }

    /// Gets a model, or one file, and returns the folder or the file in the cache. Files that are
    /// there are not downloaded again; downloads that were cut are resumed.
    ///
    /// Of a model come its configuration, tokenizer, chat templates and licence, and of its weights
    /// the first that exists of safetensors, PyTorch and Meta files.
    ///
    /// # Errors
    /// The repository, the revision or the file does not exist or needs a token; the repository
    /// holds no model, or GGUF files of which one must be named; the Hub does not answer, or not
    /// as its protocol says; the disk fails; or the network is forbidden and the cache lacks it.
    pub fn pull(
        &self,
        request: &HubRequest,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, IoError> {
        let revision = check(request)?;
        if self.network == Network::Offline {
            return self.cached(request)?.ok_or_else(|| IoError::HubOffline {
                what: describe(request),
                cache: self.cache.clone(),
            });
        }
        let client = Client::new(&self.endpoint, self.token.as_deref())?;
        let repo = RepoCache::new(&self.cache, &request.repo);
        let state = client.revision(&request.repo, revision)?;
        let wanted = match &request.file {
            Some(file) => named(&request.repo, file, &state.files)?,
            None => select::model(&request.repo, &state.files)?.files,
        };
        for file in &wanted {
            if let Ok(meta) = std::fs::metadata(repo.file(&state.commit, file)) {
                progress(Progress { file, done: meta.len(), total: Some(meta.len()) });
                continue;
            }
            let source = client.file(&request.repo, &state.commit, file)?;
            download::to_blob(&client, &repo, &source, &mut |done| {
                progress(Progress { file, done, total: Some(source.size) });
            })?;
            repo.link(&state.commit, file, &source.etag)?;
        }
        repo.write_reference(revision, &state.commit)?;
        match &request.file {
            Some(file) => Ok(repo.file(&state.commit, file)),
            None => {
                Ok(select::model(&request.repo, &wanted)?.folder(&repo.snapshot(&state.commit)))
            }
        }
    }

    /// Looks up a model or a file in the cache, without the network; `None` if it is not there in
    /// full.
    ///
    /// # Errors
    /// The request's names cannot be those of a repository, revision or file.
    pub fn cached(&self, request: &HubRequest) -> Result<Option<PathBuf>, IoError> {
        let revision = check(request)?;
        let repo = RepoCache::new(&self.cache, &request.repo);
        let Some(commit) = repo.commit(revision) else { return Ok(None) };
        match &request.file {
            Some(file) => {
                let parts = parts_of(file);
                let complete = parts.iter().all(|part| repo.file(&commit, part).is_file());
                Ok(complete.then(|| repo.file(&commit, file)))
            }
            None => match select::model(&request.repo, &repo.files(&commit)) {
                Ok(model) if model.is_complete() => Ok(Some(model.folder(&repo.snapshot(&commit)))),
                _ => Ok(None),
            },
        }
    }
}

/// Checks the names of a request; its revision.
fn check(request: &HubRequest) -> Result<&str, IoError> {
    names::check_repo(&request.repo)?;
    let revision = request.revision.as_deref().unwrap_or("main");
    names::check_path(revision, "a revision")?;
    if let Some(file) = &request.file {
        names::check_path(file, "a file in a repository")?;
    }
    Ok(revision)
}

fn describe(request: &HubRequest) -> String {
    let file = request.file.as_ref().map(|f| format!(":{f}")).unwrap_or_default();
    let revision = request.revision.as_ref().map(|r| format!(" at {r}")).unwrap_or_default();
    format!("{}{file}{revision}", request.repo)
}

/// The file, or all parts of the split GGUF that it is a part of.
fn parts_of(file: &str) -> Vec<String> {
    let (folder, name) = file.rsplit_once('/').map_or(("", file), |(f, n)| (f, n));
    let in_folder =
        |name: String| if folder.is_empty() { name } else { format!("{folder}/{name}") };
    match split::siblings(name) {
        Some(parts) => parts.into_iter().map(in_folder).collect(),
        None => vec![file.to_owned()],
    }
}

/// The parts of a named file, all of them in the repository.
fn named(repo: &str, file: &str, present: &[String]) -> Result<Vec<String>, IoError> {
    let wanted = parts_of(file);
    if let Some(absent) = wanted.iter().find(|part| !present.contains(part)) {
        let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| ending.to_owned());
        let mut found: Vec<String> =
            present.iter().filter(|n| ending(n) == ending(absent)).cloned().collect();
        if found.is_empty() {
            found = present.to_vec();
        }
        return Err(IoError::HubFile { repo: repo.to_owned(), file: absent.clone(), found });
    }
    Ok(wanted)
}
