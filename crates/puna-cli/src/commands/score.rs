//! `puna score`: how probable a model finds a text.

mod logits_file;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::anyhow;
use puna_infer::{ScoreOptions, ScoreSummary, score};
use puna_text::DecodeSpecials;
use serde::Serialize;

use crate::args::{RunArgs, read_text};
use crate::loaded::Loaded;
use crate::output;
use crate::progress::{Progress, Unit};
use crate::report::Outcome;
use logits_file::LogitsFile;

/// Log-probabilities, perplexity and bits per byte of a text. A text longer than the window is
/// scored in windows that do not overlap and each start with bos.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  puna score -m ./model --text-file book.txt --window 512 --json\n  \
    puna score -m ./model --token-ids 1,2,3 --exact --json --logits-out logits.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// File that holds the text (- is stdin)
    #[arg(long, value_name = "FILE", required_unless_present = "token_ids")]
    text_file: Option<PathBuf>,
    /// Token ids in place of text, used as they are (nothing is added)
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with = "text_file")]
    token_ids: Option<Vec<u32>>,
    /// Tokens per window, bos included [default: the model's context]
    #[arg(long, value_name = "N")]
    window: Option<NonZeroUsize>,
    /// Write the float32 `logits` [T, V] to this safetensors file; row t is what the model says
    /// after token t
    #[arg(long, value_name = "FILE")]
    logits_out: Option<PathBuf>,
    /// Print {"token_ids", "logprobs", "nll", "perplexity", "bytes", "bits_per_byte"}
    #[arg(long)]
    json: bool,
}

/// The JSON, a contract that scripts rely on.
#[derive(Debug, Serialize)]
struct Report {
    token_ids: Vec<u32>,
    /// Nats; null for the first token, which nothing predicts.
    logprobs: Vec<Option<f32>>,
    /// Mean over the scored tokens, nats per token.
    nll: f64,
    /// Sum over the scored tokens, nats.
    nll_sum: f64,
    perplexity: f64,
    /// UTF-8 bytes of the text; null where token ids were given and there is no tokenizer.
    bytes: Option<usize>,
    bits_per_byte: Option<f64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let settings = args.run.settings()?;
    let loaded = Loaded::load(&settings)?;
    let decoder = &loaded.model.decoder;
    let (ids, bytes) = args.input(&loaded)?;
    let defaults = ScoreOptions::new(decoder, loaded.bos());
    let window = args.window.map_or(defaults.window, NonZeroUsize::get);
    let options = ScoreOptions { window, ..defaults };

    let mut file = match &args.logits_out {
        Some(path) => {
            Some(LogitsFile::create(path, ids.len(), loaded.model.config.decoder.vocab_size)?)
        }
        None => None,
    };
    let mut progress = Progress::new("scoring", Unit::Tokens);
    let mut done = 0;
    let logprobs = score(decoder, &ids, &options, |row| {
        if let Some(file) = &mut file {
            file.push(row);
        }
        done += 1;
        progress.update(done, ids.len() as u64);
    })?;
    progress.finish();
    if let Some(file) = file {
        file.commit()?;
    }
    print(args, report(ids, logprobs, bytes))?;
    Ok(Outcome::Done)
}

impl Args {
    /// Ids, and the bytes of their text where that is known.
    fn input(&self, loaded: &Loaded) -> anyhow::Result<(Vec<u32>, Option<usize>)> {
        if let Some(ids) = &self.token_ids {
            let text = match &loaded.tokenizer {
                Some(tokenizer) => Some(tokenizer.decode(ids, DecodeSpecials::Skip)?),
                None => None,
            };
            return Ok((ids.clone(), text.map(|text| text.len())));
        }
        let path = self.text_file.as_ref().ok_or_else(|| anyhow!("there is nothing to score"))?;
        let text = read_text(path)?;
        if text.is_empty() {
            return Err(anyhow!("{}: there is no text to score", path.display()));
        }
        Ok((loaded.encode(&text)?, Some(text.len())))
    }
}

fn report(token_ids: Vec<u32>, logprobs: Vec<Option<f32>>, bytes: Option<usize>) -> Report {
    let summary = ScoreSummary::new(&logprobs);
    Report {
        token_ids,
        logprobs,
        nll: summary.mean_nll(),
        nll_sum: summary.nll_sum,
        perplexity: summary.perplexity(),
        bytes,
        bits_per_byte: bytes.filter(|&n| n > 0).map(|n| summary.bits_per_byte(n)),
    }
}

fn print(args: &Args, report: Report) -> anyhow::Result<()> {
    if args.json {
        return output::json(&report);
    }
    let mut rows = vec![
        row("tokens", report.token_ids.len()),
        row("nll", format!("{:.4} nats/token", report.nll)),
        row("perplexity", format!("{:.4}", report.perplexity)),
    ];
    if let (Some(bytes), Some(bits)) = (report.bytes, report.bits_per_byte) {
        rows.push(row("bytes", bytes));
        rows.push(row("bits per byte", format!("{bits:.4}")));
    }
    output::text(&output::table(&rows))
}

fn row(name: &str, value: impl ToString) -> Vec<String> {
    vec![name.to_string(), value.to_string()]
}
