//! One run at a time in an output folder.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::TrainError;

/// The file that is locked; it is left where it is.
const NAME: &str = "run.lock";

/// The right to write into an output folder, until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct OutputLock {
    /// Closing it gives the lock back.
    _file: File,
}

impl OutputLock {
    /// Takes a folder, which is made if there is none.
    ///
    /// # Errors
    /// [`TrainError::Busy`] if another process writes into the folder.
    pub(crate) fn take(output: &Path) -> Result<Self, TrainError> {
        let create = std::fs::create_dir_all(output);
        let path = output.to_path_buf();
        create.map_err(|source| TrainError::File { action: "create", path, source })?;
        let path = output.join(NAME);
        let opened = File::options().create(true).append(true).open(&path);
        let file = opened.map_err(|source| TrainError::File { action: "create", path, source })?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(TrainError::Busy { path: output.to_path_buf() }),
            // Some network file systems have no locks: a run is worth more than its lock.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Self { _file: file }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_run_at_a_time() {
        let scratch = tempfile::tempdir().unwrap();
        let output = scratch.path().join("runs/one");
        let lock = OutputLock::take(&output).unwrap();
        let second = OutputLock::take(&output).unwrap_err();
        assert!(matches!(second, TrainError::Busy { .. }), "{second}");
        OutputLock::take(&scratch.path().join("runs/two")).unwrap();
        drop(lock);
        OutputLock::take(&output).unwrap();
    }
}
