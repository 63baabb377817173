//! Several files that appear together: written into a folder aside, flushed, then renamed.
//!
//! Renames are one system call each, so the time in which a reader could meet a mixture is the
//! time of a few renames, after all data is on disk; an index is renamed last. A full disk, an
//! error or an interruption before that leaves the old files untouched.

use std::fs;
use std::path::{Path, PathBuf};

use super::ExtraFile;
use crate::IoError;
use crate::atomic::{AtomicFile, sync_folder_of};

/// The folder aside, inside the target so that renames stay on one file system.
const ASIDE: &str = ".puna.tmp";

/// A folder being filled aside. Dropping it without [`Staging::commit`] removes what was written.
#[derive(Debug)]
pub(super) struct Staging {
    target: PathBuf,
    aside: PathBuf,
    /// Folders that had to be made, innermost first, to be removed again on failure.
    made: Vec<PathBuf>,
    /// Finished files in the order of their renames.
    files: Vec<String>,
    committed: bool,
}

impl Staging {
    /// Makes the target folder if needed, and a folder aside in it.
    pub(super) fn create(target: &Path) -> Result<Self, IoError> {
        let missing = |p: &&Path| !p.as_os_str().is_empty() && !p.exists();
        let made = target.ancestors().take_while(missing).map(Path::to_path_buf).collect();
        let aside = target.join(ASIDE);
        let staging = Self {
            target: target.to_path_buf(),
            aside: aside.clone(),
            made,
            files: Vec::new(),
            committed: false,
        };
        fs::create_dir_all(target).map_err(IoError::os(target, "create"))?;
        if aside.exists() {
            // An interrupted run left it; a folder has one writer at a time.
            fs::remove_dir_all(&aside).map_err(IoError::os(&aside, "remove"))?;
        }
        fs::create_dir(&aside).map_err(IoError::os(&aside, "create"))?;
        Ok(staging)
    }

    /// Starts a file; [`Staging::finish`] it when it is complete.
    pub(super) fn start(&self, name: &str) -> Result<AtomicFile, IoError> {
        AtomicFile::create(&self.aside.join(name))
    }

    /// Flushes a started file and notes it for the renames.
    pub(super) fn finish(&mut self, name: &str, file: AtomicFile) -> Result<(), IoError> {
        file.commit()?;
        self.files.push(name.to_owned());
        Ok(())
    }

    /// Writes small files in one go.
    pub(super) fn add_all(&mut self, files: &[ExtraFile]) -> Result<(), IoError> {
        for (name, contents) in files {
            if Path::new(name).file_name().is_none_or(|n| n != name.as_str()) {
                return Err(IoError::invalid(&self.target, "extra file", "a file name", name));
            }
            let mut file = self.start(name)?;
            file.append(contents)?;
            self.finish(name, file)?;
        }
        Ok(())
    }

    /// Renames all finished files into the target, in the order they were finished, then removes
    /// the files of the target that `is_stale` picks and that were not just written.
    pub(super) fn commit(mut self, is_stale: fn(&str) -> bool) -> Result<Vec<PathBuf>, IoError> {
        self.committed = true; // from here on, what was made stays
        let mut written = Vec::new();
        for name in &self.files {
            let target = self.target.join(name);
            fs::rename(self.aside.join(name), &target).map_err(IoError::os(&target, "rename"))?;
            written.push(target);
        }
        for entry in fs::read_dir(&self.target).map_err(IoError::os(&self.target, "list"))? {
            let path = entry.map_err(IoError::os(&self.target, "list"))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if is_stale(name) && !self.files.iter().any(|f| f == name) && path.is_file() {
                fs::remove_file(&path).map_err(IoError::os(&path, "remove"))?;
            }
        }
        sync_folder_of(&self.target.join("."))?;
        Ok(written)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing more can be done about a folder that cannot be removed.
        let _ = fs::remove_dir_all(&self.aside);
        if !self.committed {
            for folder in &self.made {
                let _ = fs::remove_dir(folder);
            }
        }
    }
}
