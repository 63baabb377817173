//! The commands, one file each.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod compare_adapters;
pub(crate) mod completions;
pub(crate) mod convert;
pub(crate) mod data;
pub(crate) mod detokenize;
pub(crate) mod fit;
pub(crate) mod generate;
pub(crate) mod info;
pub(crate) mod merge;
pub(crate) mod pet;
pub(crate) mod plan;
pub(crate) mod pull;
pub(crate) mod score;
pub(crate) mod serve;
pub(crate) mod sweep;
pub(crate) mod template;
pub(crate) mod tokenize;
pub(crate) mod train;

use crate::cli::Command;
use crate::report::Outcome;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Chat(args) => chat::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Score(args) => score::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Info(args) => info::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::CompareAdapters(args) => compare_adapters::run(&args),
        Command::Pet(args) => pet::run(&args),
        Command::Merge(args) => merge::run(&args),
        Command::Data(args) => data::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Fit(args) => fit::run(&args),
        Command::Sweep(args) => sweep::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Detokenize(args) => detokenize::run(&args),
        Command::Template(args) => template::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
