//! `puna data`: text files to token shards, and what a folder of shards holds.

mod info;
mod prepare;
mod report;
mod sources;

use clap::Subcommand;

use crate::report::Outcome;

/// Turns files into token shards for training, and describes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna data prepare books/ web/*.jsonl.zst -o tokens --train-bpe 32000\n  \
    puna data info tokens")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Files to token shards
    Prepare(Box<prepare::Args>),
    /// What a folder of token shards holds
    Info(info::Args),
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Prepare(args) => prepare::run(args),
        Command::Info(args) => info::run(args),
    }
}
