//! `cargo run -p xtask -- check`: everything CI asks of a change, on the developer's machine.
//!
//! Rust and not a script, so that the gates have unit tests and run wherever the workspace builds.

#![expect(clippy::print_stdout, reason = "a command-line tool reports on stdout")]

mod check;
mod gates;
mod repo;
mod steps;

use std::process::ExitCode;

use crate::check::Extent;

const USAGE: &str = "\
usage: cargo run -p xtask -- check [--fast | --no-tests]

  check             fmt, clippy, tests, doctests, cargo deny, rustdoc, gates
  check --fast      fmt and gates: seconds
  check --no-tests  all but tests and doctests
  gates             the gates alone";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let extent = match args.as_slice() {
        ["check"] => Extent::Full,
        ["check", "--no-tests"] => Extent::NoTests,
        ["check", "--fast"] => Extent::Fast,
        ["gates"] => Extent::Gates,
        _ => {
            println!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match check::run(extent) {
        Ok(check::Verdict::Passed) => ExitCode::SUCCESS,
        Ok(check::Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}
