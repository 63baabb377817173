//! Where golden cases lie, and how a test says that it cannot run.
//!
//! Order: the folder named by `PUNA_GOLDEN`; `testdata/golden` in this repository; a full set beside
//! the checkout (`../shared/golden/cases`).

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.ancestors().nth(2).unwrap_or(crate_dir).to_path_buf()
}

fn full_set() -> PathBuf {
    repository().join("../shared/golden/cases")
}

/// The folder of golden cases, whose sub-folders are groups (`text`, `gguf`, …), if there is one.
pub fn golden_root() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PUNA_GOLDEN") {
        let path = PathBuf::from(path);
        return path.is_dir().then_some(path);
    }
    [repository().join("testdata/golden"), full_set()].into_iter().find(|path| path.is_dir())
}

/// Says on stderr why a test does not run.
#[expect(clippy::print_stderr, reason = "a skipped test has to be visible")]
pub fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// The folder of a case such as `text/llama1`; says `skipped: …` where it is absent.
pub fn golden_dir(case: &str) -> Option<PathBuf> {
    let dir = find(case);
    if dir.is_none() {
        skipped(&format!("golden case {case} is not here"));
    }
    dir
}

fn find(case: &str) -> Option<PathBuf> {
    golden_root().map(|root| root.join(case)).filter(|dir| dir.is_dir())
}

/// The cases of a group (`text` → `text/gemma1`, …), sorted; empty, and said, where there are none.
pub fn golden_cases(group: &str) -> Vec<String> {
    let Some(dir) = golden_dir(group) else { return Vec::new() };
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("golden.json").is_file())
        .map(|entry| format!("{group}/{}", entry.file_name().to_string_lossy()))
        .collect();
    names.sort();
    names
}

/// A folder of files that others publish and that are not in this repository: `tokenizers` or
/// `chat_templates`, beside the set of cases; says `skipped: …` where it is absent.
pub fn published_dir(name: &str) -> Option<PathBuf> {
    let beside_set =
        std::env::var_os("PUNA_GOLDEN").map(|set| PathBuf::from(set).join("..").join(name));
    let candidates = [beside_set, Some(full_set().join("..").join(name))];
    let dir = candidates.into_iter().flatten().find(|dir| dir.is_dir());
    if dir.is_none() {
        skipped(&format!("the published files {name}/ are not here"));
    }
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_case_is_none_and_a_present_one_is_a_folder() {
        assert_eq!(find("text/no-such-case"), None);
        assert!(golden_root().is_none_or(|root| find("text") == Some(root.join("text"))));
    }

    #[test]
    fn the_cases_of_a_group_are_named_with_their_group() {
        let names = golden_cases("text");
        if golden_root().is_some() {
            assert!(names.contains(&"text/llama2-gqa".to_owned()), "{names:?}");
        }
    }
}
