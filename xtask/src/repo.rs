//! The repository's files as git sees them: tracked ones, and new ones it does not ignore.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The checkout that is being checked.
#[derive(Debug)]
pub(crate) struct Repo {
    /// Its root folder.
    pub(crate) root: PathBuf,
    /// Files that exist, relative to the root, with `/`, sorted.
    pub(crate) files: Vec<String>,
}

impl Repo {
    /// The repository that this tool was built in.
    pub(crate) fn open() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent")?;
        // A clone that another user made is still ours to read.
        let safe = format!("safe.directory={}", root.display());
        let args = ["-c", &safe, "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let output = Command::new("git").args(args).current_dir(root).output().context("git")?;
        if !output.status.success() {
            bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let listing = String::from_utf8(output.stdout).context("a file name that is not UTF-8")?;
        let names = listing.split('\0').filter(|name| !name.is_empty());
        let mut files: Vec<String> =
            names.filter(|name| root.join(name).is_file()).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        Ok(Self { root: root.to_path_buf(), files })
    }

    /// Files whose name ends in one of the endings.
    pub(crate) fn ending(&self, endings: &[&str]) -> impl Iterator<Item = &str> {
        self.files
            .iter()
            .map(String::as_str)
            .filter(move |name| endings.iter().any(|ending| name.ends_with(ending)))
    }

    /// The text of a file.
    pub(crate) fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.root.join(name)).with_context(|| name.to_owned())
    }

    /// The size of a file in bytes.
    pub(crate) fn bytes(&self, name: &str) -> Result<u64> {
        let metadata = std::fs::metadata(self.root.join(name)).with_context(|| name.to_owned())?;
        Ok(metadata.len())
    }
}
