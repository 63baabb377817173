//! The command line as a whole.

use clap::{Parser, Subcommand};

use crate::commands::{
    bench, chat, compare_adapters, completions, convert, data, detokenize, fit, generate, info,
    merge, pet, plan, pull, score, serve, sweep, template, tokenize, train,
};

/// Run, measure and convert LLaMA-family models.
#[derive(Debug, Parser)]
#[command(
    name = "puna",
    version,
    about,
    after_help = "Examples:\n  \
        puna chat                                  talk to the built-in model\n  \
        puna chat -m ./Llama-3.2-1B-Instruct       talk to a checkpoint\n  \
        puna serve -m ./Llama-3.2-1B-Instruct      serve it over HTTP\n  \
        puna convert -m ./model --to gguf --out model.gguf\n\n\
        MODEL is a folder, a file, a Hub id (org/name or org/name:file.gguf) or a built-in name.\n\
        Exit codes: 0 done, 1 the task says no, 2 error."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Talk to a model
    Chat(chat::Args),
    /// Continue a text
    Generate(generate::Args),
    /// Answer OpenAI's, Ollama's and Anthropic's requests over HTTP, with a web page
    Serve(serve::Args),
    /// Log-probabilities and perplexity of a text
    Score(score::Args),
    /// What a checkpoint holds
    Info(info::Args),
    /// Write a checkpoint in another format
    Convert(convert::Args),
    /// Train several methods under one budget and compare them
    CompareAdapters(compare_adapters::Args),
    /// Train a classifier on few examples by cloze questions
    Pet(pet::Args),
    /// Write a model with adapters merged into its weights
    Merge(merge::Args),
    /// Prepare text for training
    Data(data::Args),
    /// Train a model from a recipe
    Train(train::Args),
    /// Fit scaling laws to the losses of runs
    Fit(fit::Args),
    /// Size, tokens, memory, time and cost of a training, before it is paid for
    Plan(plan::Args),
    /// Train a grid of sizes and budgets and fit the scaling law
    Sweep(sweep::Args),
    /// Token ids of a text
    Tokenize(tokenize::Args),
    /// Text of token ids
    Detokenize(detokenize::Args),
    /// A conversation as the model sees it
    Template(template::Args),
    /// Download a model from the Hub
    Pull(pull::Args),
    /// Measure speed
    Bench(bench::Args),
    /// Completion script for a shell
    Completions(completions::Args),
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
