//! The `puna` binary: arguments in, text and JSON out, exit codes 0 (done), 1 (the task says no)
//! and 2 (error).
//!
//! Everything a person reads is written here and nowhere else in the workspace. Data goes to
//! stdout, the rest to stderr. Each command is one file under `commands`: its arguments as typed
//! (clap), the checked settings made of them, and the printing of what the libraries return.

mod adapters;
mod args;
mod chat_format;
mod child;
mod cli;
mod commands;
mod draft_args;
mod embedded;
mod interrupt;
mod loaded;
mod model_ref;
mod output;
mod progress;
mod report;
mod sampling_args;
mod scratch;
mod text_side;
mod threads;
mod units;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static HEAP: puna_kernels::LineAligned = puna_kernels::LineAligned;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match threads::check_environment().and_then(|()| commands::run(cli.command)) {
        Ok(outcome) => outcome.code(),
        Err(error) => report::fail(&error),
    }
}
