//! Rules on the text of sources that no lint covers: a file says what it is, lints are expected
//! with a reason and never allowed, work left over names its issue, and modules are `foo.rs` + `foo/`.

use anyhow::Result;

use crate::repo::Repo;

/// Put together so that this file passes its own gate.
const ALLOW: [&str; 2] = [concat!("#[", "allow("), concat!("#![", "allow(")];
const LEFT_OVER: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in repo.ending(&[".rs"]) {
        let text = repo.read(name)?;
        problems.extend(rust_problems(name, &text));
        problems.extend(left_over(name, &text));
    }
    for name in repo.ending(&[".py", ".ts", ".tsx", ".mjs", ".sh", ".toml", ".ci/run"]) {
        if !name.starts_with("testdata/golden/") {
            problems.extend(left_over(name, &repo.read(name)?));
        }
    }
    Ok(problems)
}

fn rust_problems(name: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if !text.starts_with("//!") && !text.starts_with("#![no_main]\n//!") {
        problems.push(format!("{name}: does not open with `//!`"));
    }
    if name.ends_with("/mod.rs") {
        problems.push(format!("{name}: modules are `foo.rs` + `foo/`"));
    }
    for (i, line) in text.lines().enumerate() {
        if ALLOW.iter().any(|needle| line.contains(needle)) {
            problems.push(format!("{name}:{}: use #[expect(…, reason = …)]", i + 1));
        }
    }
    problems
}

fn left_over(name: &str, text: &str) -> Vec<String> {
    let names_issue = |line: &str| {
        line.split('#').skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| LEFT_OVER.iter().any(|needle| line.contains(needle)))
        .filter(|(_, line)| !names_issue(line))
        .map(|(i, _)| format!("{name}:{}: work left over without its issue (#n)", i + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowed_lint_is_a_problem_and_an_expected_one_is_not() {
        let text =
            format!("//! a\n{}dead_code)]\n#[expect(dead_code, reason = \"b\")]\n", ALLOW[0]);
        assert_eq!(rust_problems("a.rs", &text), ["a.rs:2: use #[expect(…, reason = …)]"]);
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(rust_problems("a.rs", "use std::fs;\n").len(), 1);
        assert_eq!(rust_problems("a/mod.rs", "//! a\n").len(), 1);
    }

    #[test]
    fn work_left_over_names_its_issue() {
        let text = format!("// {} later\n// {}(#12) later\n", LEFT_OVER[0], LEFT_OVER[0]);
        assert_eq!(left_over("a.rs", &text), ["a.rs:1: work left over without its issue (#n)"]);
    }
}
