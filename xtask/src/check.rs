//! Runs the steps in order, does not stop at the first that fails, and closes with one line each.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::repo::Repo;
use crate::{gates, steps};

/// How much to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Everything.
    Full,
    /// Everything but tests and doctests: CI ran them already.
    NoTests,
    /// What takes seconds: formatting and gates.
    Fast,
    /// The gates alone.
    Gates,
}

/// What came of the whole check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
}

/// What came of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It passed; the text says what was counted.
    Passed(String),
    /// It could not run, and why. Does not fail the check, but is printed.
    Skipped(String),
    /// It failed, and why.
    Failed(String),
}

type Step = fn(&Repo) -> Result<Outcome>;

const TESTS: [(&str, Step); 2] = [("tests", steps::tests), ("doctests", steps::doctests)];
const LINTS: [(&str, Step); 4] = [
    ("clippy", steps::clippy),
    ("rustdoc", steps::rustdoc),
    ("deny: bans, licences, sources", steps::deny),
    ("deny: advisories", steps::advisories),
];

pub(crate) fn run(extent: Extent) -> Result<Verdict> {
    let repo = Repo::open()?;
    let mut plan: Vec<(&str, Step)> = Vec::new();
    if extent != Extent::Gates {
        plan.push(("fmt", steps::fmt));
    }
    if matches!(extent, Extent::Full | Extent::NoTests) {
        plan.extend(LINTS);
    }
    if extent == Extent::Full {
        plan.extend(TESTS);
    }
    plan.extend(gates::ALL.iter().map(|gate| (gate.name, gate.step)));

    let mut report = Vec::new();
    for (name, step) in plan {
        println!("== {name}");
        let start = Instant::now();
        let outcome = step(&repo).unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        report.push((name, outcome, start.elapsed()));
    }
    Ok(close(&report))
}

/// Prints the closing table.
fn close(report: &[(&str, Outcome, Duration)]) -> Verdict {
    println!("\n== xtask check");
    let mut counts = [0usize; 3];
    for (name, outcome, took) in report {
        let (word, text, slot) = match outcome {
            Outcome::Passed(text) => ("ok", text, 0),
            Outcome::Failed(text) => ("FAILED", text, 1),
            Outcome::Skipped(text) => ("skipped", text, 2),
        };
        counts[slot] += 1;
        println!("{word:8} {name:32} {:6.1} s  {text}", took.as_secs_f64());
    }
    let [passed, failed, skipped] = counts;
    println!("{passed} steps passed, {failed} failed, {skipped} skipped");
    if failed == 0 { Verdict::Passed } else { Verdict::Failed }
}
