//! Folders for a few steps of a run, which are removed afterwards.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use crate::report::Hint;

/// `OUTPUT.suffix`, which must not be anybody's: it will be removed.
pub(crate) fn beside(output: &Path, suffix: &str) -> anyhow::Result<PathBuf> {
    let mut name = output.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    let folder = PathBuf::from(name);
    if folder.exists() {
        return Err(anyhow!("{} exists already", folder.display())).hint(
            "the few steps are made there: move it away, or remove it if an earlier one broke off",
        );
    }
    Ok(folder)
}
