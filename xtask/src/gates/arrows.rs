//! Who may use whom: ARCHITECTURE.md's picture as a table. A crate that is not in it is a problem,
//! so that a new crate says where it stands.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::repo::Repo;

/// A crate, and the puna crates it may depend on. Tests may also use puna-testkit.
const ALLOWED: &[(&str, &[&str])] = &[
    ("puna-config", &[]),
    ("puna-kernels", &[]),
    ("puna-io", &[]),
    ("puna-text", &[]),
    ("puna-cuda", &[]),
    ("puna-nn", &["puna-config", "puna-cuda", "puna-kernels"]),
    (
        "puna-model",
        &["puna-config", "puna-cuda", "puna-kernels", "puna-io", "puna-text", "puna-nn"],
    ),
    ("puna-infer", &["puna-config", "puna-kernels", "puna-text", "puna-nn", "puna-model"]),
    ("puna-server", &["puna-config", "puna-text", "puna-nn", "puna-model", "puna-infer"]),
    ("puna-data", &["puna-io", "puna-text"]),
    ("puna-peft", &["puna-config", "puna-kernels", "puna-io", "puna-nn", "puna-model"]),
    (
        "puna-train",
        &[
            "puna-config",
            "puna-cuda",
            "puna-data",
            "puna-io",
            "puna-text",
            "puna-kernels",
            "puna-nn",
            "puna-model",
            "puna-peft",
            "puna-plot",
        ],
    ),
    (
        "puna-cli",
        &[
            "puna-config",
            "puna-kernels",
            "puna-io",
            "puna-text",
            "puna-nn",
            "puna-model",
            "puna-infer",
            "puna-data",
            "puna-peft",
            "puna-train",
            "puna-plot",
            "puna-laws",
            "puna-server",
        ],
    ),
    ("puna-plot", &["puna-io"]),
    ("puna-laws", &["puna-config", "puna-plot"]),
    ("puna-testkit", &[]),
    ("xtask", &[]),
];

/// Where candle-core enters: the leaves and the binary stay free of it.
const CANDLE_CORE: &[&str] = &[
    "puna-cuda",
    "puna-nn",
    "puna-model",
    "puna-infer",
    "puna-peft",
    "puna-train",
    "puna-testkit",
];

/// Their fused ops have no backward and say nothing (docs/decisions/0001-candle-core-only.md).
const BANNED: &[&str] = &["candle-nn", "candle-transformers"];

pub(super) fn check(repo: &Repo) -> Result<Vec<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(&repo.root)
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let mut problems = wrong_arrows(&metadata);
    problems.extend(banned_packages(&repo.read("Cargo.lock")?));
    Ok(problems)
}

fn wrong_arrows(metadata: &Value) -> Vec<String> {
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("{name}: not in the table of xtask/src/gates/arrows.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"].as_str() == Some("dev");
            if !may_use(name, allowed, to, for_tests) {
                problems.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    problems
}

fn may_use(from: &str, allowed: &[&str], to: &str, for_tests: bool) -> bool {
    match to {
        "puna-testkit" => for_tests,
        "candle-core" => CANDLE_CORE.contains(&from),
        _ if BANNED.contains(&to) => false,
        _ if to.starts_with("puna-") || to == "xtask" => allowed.contains(&to),
        _ => true,
    }
}

fn banned_packages(lock: &str) -> Vec<String> {
    let locked = |name: &&&str| lock.lines().any(|line| line == format!("name = \"{name}\""));
    BANNED.iter().filter(locked).map(|name| format!("Cargo.lock holds {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn problems_of(from: &str, to: &str, kind: Value) -> Vec<String> {
        wrong_arrows(&json!({
            "packages": [{ "name": from, "dependencies": [{ "name": to, "kind": kind }] }]
        }))
    }

    #[test]
    fn an_arrow_against_the_picture_is_a_problem() {
        assert!(problems_of("puna-model", "puna-nn", Value::Null).is_empty());
        let problems = problems_of("puna-nn", "puna-model", Value::Null);
        assert_eq!(problems, ["puna-nn must not depend on puna-model"]);
    }

    #[test]
    fn candle_core_stays_out_of_the_leaves() {
        assert!(problems_of("puna-nn", "candle-core", Value::Null).is_empty());
        assert_eq!(problems_of("puna-io", "candle-core", Value::Null).len(), 1);
        assert_eq!(problems_of("puna-nn", "candle-nn", Value::Null).len(), 1);
    }

    #[test]
    fn the_testkit_is_for_tests_only() {
        assert!(problems_of("puna-nn", "puna-testkit", json!("dev")).is_empty());
        assert_eq!(problems_of("puna-nn", "puna-testkit", Value::Null).len(), 1);
    }

    #[test]
    fn a_crate_that_nobody_placed_is_a_problem() {
        assert_eq!(problems_of("puna-new", "serde", Value::Null).len(), 1);
    }

    #[test]
    fn a_banned_package_in_the_lock_file_is_named() {
        let lock = "[[package]]\nname = \"candle-nn\"\nversion = \"0.11.1\"\n";
        assert_eq!(banned_packages(lock), ["Cargo.lock holds candle-nn"]);
        assert!(banned_packages("name = \"candle-core\"\n").is_empty());
    }
}
