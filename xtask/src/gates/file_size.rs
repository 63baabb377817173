//! No source file above 600 lines: a reader holds a file in the head.

use anyhow::Result;

use crate::repo::Repo;

const MAX_LINES: usize = 600;
const ENDINGS: &[&str] = &[".rs", ".py", ".ts", ".tsx", ".mjs"];

/// Comes whole from the team that makes the golden data, and is not this repository's reading.
const EXEMPT: &[&str] = &["testdata/golden/make_golden.py"];

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in repo.ending(ENDINGS).filter(|name| !EXEMPT.contains(name)) {
        problems.extend(too_long(name, &repo.read(name)?));
    }
    Ok(problems)
}

fn too_long(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| format!("{name}: {lines} lines, at most {MAX_LINES}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_601_lines_is_too_long_and_one_of_600_is_not() {
        assert_eq!(too_long("a.rs", &"x\n".repeat(600)), None);
        assert_eq!(too_long("a.rs", &"x\n".repeat(601)).unwrap(), "a.rs: 601 lines, at most 600");
    }
}
