//! A repository's folder in the cache.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::names;
use crate::{AtomicFile, IoError};

/// Folders below a snapshot at most.
const MAX_DEPTH: usize = 8;

/// `models--org--name` and its locks. Names are checked by the caller.
#[derive(Debug)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let folder = format!("models--{}", repo.replace('/', "--"));
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(&folder) }
    }

    /// The folder that looks like the repository at a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where a file of the repository is found.
    pub(super) fn file(&self, commit: &str, file: &str) -> PathBuf {
        self.snapshot(commit).join(file)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(super) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit that a revision was at the last pull.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if names::is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        let commit = text.trim();
        names::is_commit(commit).then(|| commit.to_owned())
    }

    /// Notes the commit that a branch or tag stands for.
    pub(super) fn write_reference(&self, revision: &str, commit: &str) -> Result<(), IoError> {
        if revision == commit || self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        let mut file = AtomicFile::create(&path)?;
        file.append(commit.as_bytes())?;
        file.commit()
    }

    /// The files of a snapshot whose contents are there, sorted; none if it cannot be read.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let mut files = Vec::new();
        collect(&self.snapshot(commit), "", MAX_DEPTH, &mut files);
        files.sort_unstable();
        files
    }

    /// Makes a file of a snapshot a link to its blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), IoError> {
        let path = self.file(commit, file);
        create_parent(&path)?;
        if path.symlink_metadata().is_ok() {
            // A link to a blob that is gone; a link to one that is there was not downloaded again.
            fs::remove_file(&path).map_err(IoError::os(&path, "replace"))?;
        }
        #[cfg(unix)]
        {
            let up = "../".repeat(file.matches('/').count() + 2);
            let target = format!("{up}blobs/{etag}");
            std::os::unix::fs::symlink(target, &path).map_err(IoError::os(&path, "link"))
        }
        #[cfg(not(unix))]
        {
            // Links need a privilege there; huggingface_hub does without them in the same way.
            let blob = self.blob(etag);
            fs::rename(&blob, &path).map_err(IoError::os(&path, "move"))
        }
    }

    /// Waits until no other process downloads this blob; ends with the returned file.
    pub(super) fn lock(&self, etag: &str) -> Result<File, IoError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(IoError::os(&path, "create"))?;
        match file.lock() {
            // A file system without locks; two downloads at once are the user's care there.
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(file),
            result => result.map(|()| file).map_err(IoError::os(&path, "lock")),
        }
    }
}

/// Makes the folder of a file.
pub(super) fn create_parent(path: &Path) -> Result<(), IoError> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).map_err(IoError::os(folder, "create")),
        None => Ok(()),
    }
}

fn collect(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let path = entry.path();
        // Links are followed: a link without its blob is not there.
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => files.push(name),
            Ok(meta) if meta.is_dir() && depth > 0 => collect(&path, &name, depth - 1, files),
            _ => {}
        }
    }
}
