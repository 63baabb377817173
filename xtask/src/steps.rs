//! The steps that run other programs: cargo's, and cargo-deny and cargo-nextest where present.

mod counts;
mod run;

use anyhow::Result;

use self::counts::Counts;
use self::run::{cargo, cargo_env, has_subcommand};
use crate::check::Outcome;
use crate::repo::Repo;

pub(crate) fn fmt(repo: &Repo) -> Result<Outcome> {
    passed(cargo(repo, &["fmt", "--all", "--check"])?.success, "")
}

pub(crate) fn clippy(repo: &Repo) -> Result<Outcome> {
    let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    passed(cargo(repo, &args)?.success, "")
}

pub(crate) fn rustdoc(repo: &Repo) -> Result<Outcome> {
    let args = ["doc", "--workspace", "--no-deps", "--quiet"];
    passed(cargo_env(repo, &args, &[("RUSTDOCFLAGS", "-D warnings")])?.success, "")
}

/// Everything but doctests, with cargo-nextest where it is installed. Output of passing tests is
/// shown too: it holds the `skipped: …` lines that are counted.
pub(crate) fn tests(repo: &Repo) -> Result<Outcome> {
    let run = if has_subcommand(repo, "nextest") {
        let args =
            ["nextest", "run", "--workspace", "--no-fail-fast", "--success-output", "immediate"];
        cargo(repo, &args)?
    } else {
        let args =
            ["test", "--workspace", "--all-targets", "--no-fail-fast", "--", "--show-output"];
        cargo(repo, &args)?
    };
    counted(run.success, &Counts::of(&run.output))
}

/// Examples in the documentation, which cargo-nextest does not run.
pub(crate) fn doctests(repo: &Repo) -> Result<Outcome> {
    let run = cargo(repo, &["test", "--workspace", "--doc", "--no-fail-fast"])?;
    passed(run.success, &Counts::of(&run.output).to_string())
}

const DENY_ABSENT: &str = "cargo-deny is not installed (cargo install --locked cargo-deny)";

pub(crate) fn deny(repo: &Repo) -> Result<Outcome> {
    if !has_subcommand(repo, "deny") {
        return Ok(Outcome::Skipped(DENY_ABSENT.to_owned()));
    }
    passed(cargo(repo, &["deny", "check", "bans", "licenses", "sources"])?.success, "")
}

/// Needs the RustSec database: a machine that can neither fetch it nor has it skips, visibly.
pub(crate) fn advisories(repo: &Repo) -> Result<Outcome> {
    if !has_subcommand(repo, "deny") {
        return Ok(Outcome::Skipped(DENY_ABSENT.to_owned()));
    }
    if !cargo(repo, &["deny", "fetch", "db"])?.success {
        return Ok(Outcome::Skipped("the advisory database cannot be fetched here".to_owned()));
    }
    passed(cargo(repo, &["deny", "check", "advisories"])?.success, "")
}

fn passed(success: bool, text: &str) -> Result<Outcome> {
    let text = text.to_owned();
    Ok(if success { Outcome::Passed(text) } else { Outcome::Failed(text) })
}

/// A test run that ran nothing has not passed.
fn counted(success: bool, counts: &Counts) -> Result<Outcome> {
    passed(success && counts.passed > 0, &counts.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_tests_does_not_pass() {
        assert_eq!(
            counted(true, &Counts::default()).unwrap(),
            Outcome::Failed("0 passed, 0 failed, 0 ignored".to_owned())
        );
    }
}
