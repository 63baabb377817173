//! A clone stays small: limits on test data, on models that are embedded, and on any other file.

use anyhow::Result;

use crate::repo::Repo;

/// Folders that may hold data, with the bytes they may hold in all.
const LIMITS: &[(&str, u64)] = &[("testdata/", 22_000_000), ("models/", 8_000_000)];

/// The largest file anywhere else (Cargo.lock and tables are well below).
const OTHER_FILE: u64 = 500_000;

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let sizes: Result<Vec<(&str, u64)>> =
        repo.files.iter().map(|name| Ok((name.as_str(), repo.bytes(name)?))).collect();
    Ok(too_large(&sizes?))
}

fn too_large(sizes: &[(&str, u64)]) -> Vec<String> {
    let mut problems = Vec::new();
    for (folder, limit) in LIMITS {
        let inside = sizes.iter().filter(|(name, _)| name.starts_with(folder));
        let total: u64 = inside.map(|(_, bytes)| bytes).sum();
        if total > *limit {
            problems.push(format!("{folder}: {total} bytes, at most {limit}"));
        }
    }
    for (name, bytes) in sizes {
        let elsewhere = LIMITS.iter().all(|(folder, _)| !name.starts_with(folder));
        if elsewhere && *bytes > OTHER_FILE {
            problems.push(format!("{name}: {bytes} bytes, at most {OTHER_FILE}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_data_is_limited_in_all_and_other_files_one_by_one() {
        assert!(too_large(&[("testdata/a", 22_000_000), ("src/a.rs", 500_000)]).is_empty());
        let problems = too_large(&[("testdata/a", 12_000_000), ("testdata/b", 11_000_000)]);
        assert_eq!(problems, ["testdata/: 23000000 bytes, at most 22000000"]);
        assert_eq!(too_large(&[("crates/x/big.bin", 500_001)]).len(), 1);
    }
}
