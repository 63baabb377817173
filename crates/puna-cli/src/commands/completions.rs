//! `puna completions`: a script that completes puna's arguments in a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;
use crate::report::Outcome;

/// Prints a completion script.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  puna completions bash > ~/.local/share/bash-completion/completions/puna"
)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "puna", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
