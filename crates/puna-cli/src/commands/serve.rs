//! `puna serve`: models over HTTP, with the web page.

mod models;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use puna_infer::SchedulerOptions;
use puna_server::{Exposure, Planner, PromptLog, ServerConfig};

use crate::args::ComputeArgs;
use crate::chat_format::TemplateArgs;
use crate::commands::plan;
use crate::report::{Hint, Outcome};
use crate::{output, units};
use models::{AdapterChoice, ModelChoice};

/// Serves models until Ctrl-C, which finishes what was accepted; a second one ends at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna serve\n  \
    puna serve -m ./Llama-3.2-1B-Instruct -m small=model.gguf --idle-unload 600\n  \
    puna serve -m ./base --adapter law=./law-lora --host 0.0.0.0 --api-key-file keys.txt\n\n\
    The address is printed on stdout. OpenAI's clients use it with /v1 behind it, Ollama's as it is.")]
pub(crate) struct Args {
    /// Model as in other commands, with a name of its own before `=`; may be given several times.
    /// The first is loaded at the start, others when they are asked for
    /// [default: the built-in puna-mini]
    #[arg(short, long, value_name = "[NAME=]MODEL")]
    model: Vec<ModelChoice>,
    /// Adapter of a model (the first, where none is named), served under its own name; may be given
    /// several times
    #[arg(long, value_name = "NAME=DIR[@MODEL]")]
    adapter: Vec<AdapterChoice>,
    /// Use adapters also with another model than the one they were trained for
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    template: TemplateArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    page: PageArgs,
}

/// What the web page shows beside the chat.
#[derive(Debug, clap::Args)]
struct PageArgs {
    /// Folder of training runs whose curves the page shows
    #[arg(long, value_name = "DIR")]
    runs: Option<PathBuf>,
    /// File that ratings of answers are appended to, for preference training; pairs go into
    /// NAME.pairs.jsonl beside it
    #[arg(long, value_name = "FILE")]
    feedback: Option<PathBuf>,
}

/// Who may ask.
#[derive(Debug, clap::Args)]
struct NetworkArgs {
    /// Name or address to listen on; others than this machine's need --api-key-file or --insecure
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// File of API keys, one per line; requests then need one
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Allow any address without API keys
    #[arg(long)]
    insecure: bool,
    /// Origin whose web pages may use this server, such as http://localhost:3000, or * for all; may
    /// be given several times
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<String>,
    /// Write prompts to the log, which otherwise has no text of any request
    #[arg(long)]
    log_prompts: bool,
}

/// How much is taken on.
#[derive(Debug, clap::Args)]
struct LimitArgs {
    /// Sequences that run at once, per model
    #[arg(long, value_name = "N", default_value_t = 16)]
    max_sequences: usize,
    /// Requests that may wait, per model; further ones get 429
    #[arg(long, value_name = "N", default_value_t = 256)]
    queue: usize,
    /// Memory for keys and values, per model (with KiB, MiB or GiB; bytes otherwise)
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    kv_memory: usize,
    /// Prompt tokens per step while other sequences are answered [default: 64, on a GPU 512]
    #[arg(long, value_name = "TOKENS")]
    prefill_chunk: Option<usize>,
    /// Largest body of a request
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = size)]
    max_body_bytes: usize,
    /// Largest prompt [default: what the model's context holds]
    #[arg(long, value_name = "TOKENS")]
    max_prompt_tokens: Option<usize>,
    /// Seconds that a request may take; 0 is any time
    #[arg(long, value_name = "SECS", default_value_t = 600)]
    request_timeout: u64,
    /// Seconds after which an unused model is unloaded [default: never]
    #[arg(long, value_name = "SECS")]
    idle_unload: Option<u64>,
    /// Seconds that accepted requests get after Ctrl-C or SIGTERM
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    drain_timeout: u64,
}

/// A size with its unit.
fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("the unit is KiB, MiB or GiB".to_owned()),
    };
    let number = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(factor));
    number.filter(|&bytes| bytes > 0).ok_or_else(|| "expected a size such as 512MiB".to_owned())
}

/// A GPU needs as long for some hundred tokens as for a few: in small chunks the prompts of 16 clients
/// took it longer than their answers.
const GPU_PREFILL_CHUNK: usize = 512;

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut config = config(args)?;
    let (specs, load) = models::specs(args)?;
    if load.device.is_some() && args.limits.prefill_chunk.is_none() {
        config.scheduler.prefill_chunk = GPU_PREFILL_CHUNK;
    }
    let names: Vec<String> = specs
        .iter()
        .flat_map(|spec| std::iter::once(spec.name.clone()).chain(spec.adapters.clone()))
        .collect();
    let mut printed = Ok(());
    puna_server::serve(config, specs, |address| {
        output::note(&format!(
            "serving {} (KV memory {}); Ctrl-C finishes what was accepted",
            names.join(", "),
            units::bytes(args.limits.kv_memory as u64)
        ));
        printed = output::line(&format!("http://{address}"));
    })?;
    printed?;
    Ok(Outcome::Done)
}

fn config(args: &Args) -> anyhow::Result<ServerConfig> {
    let Args { network, limits, .. } = args;
    let defaults = SchedulerOptions::default();
    let scheduler = SchedulerOptions {
        max_sequences: limits.max_sequences,
        kv_bytes: limits.kv_memory,
        queue_length: limits.queue,
        prefill_chunk: limits.prefill_chunk.unwrap_or(defaults.prefill_chunk),
        ..defaults
    };
    scheduler.validate()?;
    if limits.max_prompt_tokens == Some(0) {
        return Err(anyhow!("--max-prompt-tokens 0 would refuse every request"))
            .hint("leave it out for the model's own context");
    }
    if let Some(runs) = args.page.runs.as_ref().filter(|runs| !runs.is_dir()) {
        return Err(anyhow!("--runs {} is no folder", runs.display()))
            .hint("it is the folder that output folders of `puna train` lie in");
    }
    let seconds = |seconds: u64| (seconds > 0).then(|| Duration::from_secs(seconds));
    Ok(ServerConfig {
        host: network.host.clone(),
        port: network.port,
        api_key_file: network.api_key_file.clone(),
        exposure: if network.insecure { Exposure::Anywhere } else { Exposure::Loopback },
        scheduler,
        max_body_bytes: limits.max_body_bytes,
        max_prompt_tokens: limits.max_prompt_tokens,
        request_timeout: seconds(limits.request_timeout),
        idle_unload: limits.idle_unload.map(Duration::from_secs),
        cors_origins: network.cors_origin.clone(),
        prompt_log: if network.log_prompts { PromptLog::On } else { PromptLog::Off },
        drain_timeout: Duration::from_secs(limits.drain_timeout),
        planner: Some(Planner::new(plan::answer_for_page)),
        runs: args.page.runs.clone(),
        feedback: args.page.feedback.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("100"), Ok(100));
        for text in ["", "0", "5MB", "-1", "99999999999GiB", "1.5GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
