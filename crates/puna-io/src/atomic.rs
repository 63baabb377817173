//! A file that appears under its name only when it is complete.
//!
//! Bytes go to `.NAME.PID.tmp` in the same folder; [`AtomicFile::commit`] flushes them to disk,
//! renames, and flushes the folder. A crash, a full disk or a dropped value leaves what was there
//! before.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::IoError;

const BUFFER_BYTES: usize = 1 << 20;

/// A file being written aside. Dropping it without [`AtomicFile::commit`] removes it.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Starts a file that will be called `target`.
    ///
    /// # Errors
    /// The folder does not exist or cannot be written.
    pub fn create(target: &Path) -> Result<Self, IoError> {
        let name = target
            .file_name()
            .ok_or_else(|| IoError::invalid(target, "the path", "a file name", "none"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = target.with_file_name(hidden);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(IoError::os(&temporary, "create"))?;
        let writer = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Self { target: target.to_path_buf(), temporary, writer })
    }

    /// The name the file will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The disk is full or fails; the error names the target.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.write_all(bytes).map_err(IoError::os(&self.target, "write"))
    }

    /// Flushes to disk and gives the file its name, replacing what had it.
    ///
    /// # Errors
    /// Flushing or renaming fails; the temporary file is removed and the old one stays.
    pub fn commit(mut self) -> Result<(), IoError> {
        if let Some(writer) = self.writer.take() {
            let file = writer
                .into_inner()
                .map_err(|e| IoError::os(&self.target, "write")(e.into_error()))?;
            file.sync_all().map_err(IoError::os(&self.target, "flush"))?;
        }
        fs::rename(&self.temporary, &self.target).map_err(IoError::os(&self.target, "rename"))?;
        sync_folder_of(&self.target)
    }

    fn open_writer(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.writer.as_mut().ok_or_else(|| io::Error::other("the file is already committed"))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.open_writer()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.open_writer()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.open_writer()?.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a successful rename there is nothing under this name; the result says nothing.
        self.writer = None;
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Flushes the folder of `path`, so that a rename survives a power cut.
pub(crate) fn sync_folder_of(path: &Path) -> Result<(), IoError> {
    #[cfg(unix)]
    {
        let folder = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let file = File::open(folder).map_err(IoError::os(folder, "open"))?;
        file.sync_all().map_err(IoError::os(folder, "flush"))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_the_old_one() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.bin");
        fs::write(&path, b"old").expect("write");
        let mut file = AtomicFile::create(&path).expect("create");
        file.append(b"half of the new").expect("write");
        drop(file);
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }

    #[test]
    fn a_committed_file_replaces_the_old_one() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("a.bin");
        fs::write(&path, b"old").expect("write");
        let mut file = AtomicFile::create(&path).expect("create");
        file.append(b"new").expect("write");
        file.commit().expect("commit");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
