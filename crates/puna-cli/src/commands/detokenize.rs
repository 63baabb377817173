//! `puna detokenize`: token ids to text.

use anyhow::anyhow;
use puna_text::DecodeSpecials;
use serde_json::json;

use crate::commands::tokenize::TokenizerArgs;
use crate::output;
use crate::report::Outcome;

/// Prints the text of token ids, exactly as the model's reference tokenizer decodes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  puna detokenize --token-ids 510,299,42")]
pub(crate) struct Args {
    #[command(flatten)]
    source: TokenizerArgs,
    /// The ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    token_ids: Vec<u32>,
    /// Leave out special tokens such as bos
    #[arg(long)]
    skip_special: bool,
    /// Print {"text"}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let tokenizer = args.source.load()?;
    let special = if args.skip_special { DecodeSpecials::Skip } else { DecodeSpecials::AsLibrary };
    if let Some(id) = args.token_ids.iter().find(|id| **id as usize >= tokenizer.vocab_size()) {
        let known = tokenizer.vocab_size();
        return Err(anyhow!("token {id} is outside the tokenizer's {known} tokens"));
    }
    let text = tokenizer.decode(&args.token_ids, special)?;
    if args.json {
        output::json(&json!({ "text": text }))?;
    } else {
        output::line(&text)?;
    }
    Ok(Outcome::Done)
}
