//! Three cargo features in the workspace, and conditional code on them in few files: every feature
//! doubles what has to be built and tested.

use anyhow::Result;

use crate::repo::Repo;

const FEATURES: &[&str] = &["cuda", "metal", "mpi"];

/// Files that may hold `cfg(feature = …)`.
const CONDITIONAL: &[&str] =
    &["crates/puna-cuda/build.rs", "crates/puna-cuda/src/lib.rs", "crates/puna-train/src/ranks.rs"];

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for name in repo.ending(&["Cargo.toml"]) {
        problems.extend(unknown_features(name, &repo.read(name)?));
    }
    for name in repo.ending(&[".rs"]).filter(|name| !name.starts_with("xtask/")) {
        if !CONDITIONAL.contains(&name) {
            problems.extend(conditional_lines(name, &repo.read(name)?));
        }
    }
    Ok(problems)
}

/// Names declared in a manifest's `[features]`, other than the three.
fn unknown_features(name: &str, manifest: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') && line.ends_with(']') {
            inside = line == "[features]";
        } else if let Some((feature, _)) = line.split_once('=').filter(|_| inside) {
            let feature = feature.trim().trim_matches('"');
            if !feature.starts_with('#') && !FEATURES.contains(&feature) {
                problems.push(format!("{name}: feature {feature} is none of {FEATURES:?}"));
            }
        }
    }
    problems
}

fn conditional_lines(name: &str, text: &str) -> Vec<String> {
    let conditional = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        let compact: String = code.chars().filter(|c| !c.is_whitespace()).collect();
        compact.contains("cfg")
            && compact.contains("feature=\"")
            && !compact.contains("target_feature=\"")
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| conditional(line))
        .map(|(i, _)| format!("{name}:{}: cfg(feature) outside the files that may have it", i + 1))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fourth_feature_is_a_problem() {
        let manifest = "[features]\ncuda = []\nturbo = [\"x/y\"]\n[dependencies]\nserde = \"1\"\n";
        let problems = unknown_features("Cargo.toml", manifest);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("feature turbo"));
    }

    #[test]
    fn conditional_code_is_found_and_target_features_are_left_alone() {
        let text = "#[cfg(feature = \"cuda\")]\n#[cfg(target_feature = \"avx2\")]\nfn f() {}\n";
        let problems = conditional_lines("a.rs", text);
        assert_eq!(problems, ["a.rs:1: cfg(feature) outside the files that may have it"]);
    }
}
