//! `puna tokenize`: text to token ids.

use std::path::PathBuf;

use puna_text::{SpecialTokens, Tokenizer};
use serde_json::json;

use crate::args::{ModelArgs, read_text};
use crate::report::Outcome;
use crate::{output, text_side};

/// Prints the token ids of a text, exactly as the model's reference tokenizer gives them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna tokenize 'What is a vector?'\n  \
    puna tokenize --tokenizer tokenizer.model --text-file book.txt --no-special --json")]
pub(crate) struct Args {
    #[command(flatten)]
    source: TokenizerArgs,
    /// The text
    #[arg(required_unless_present = "text_file", conflicts_with = "text_file")]
    text: Option<String>,
    /// File that holds the text (- is stdin)
    #[arg(long, value_name = "FILE")]
    text_file: Option<PathBuf>,
    /// Without the bos and eos that the tokenizer adds
    #[arg(long)]
    no_special: bool,
    /// Print {"token_ids", "tokens"}
    #[arg(long)]
    json: bool,
}

/// Where the tokenizer comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenizerArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// tokenizer.json, SentencePiece or tiktoken file, or a folder with one, in place of a model
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    tokenizer: Option<PathBuf>,
}

impl TokenizerArgs {
    pub(crate) fn load(&self) -> anyhow::Result<Tokenizer> {
        match &self.tokenizer {
            Some(path) => Ok(Tokenizer::from_path(path)?),
            None => text_side::tokenizer(&self.model.resolve()?),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let tokenizer = args.source.load()?;
    let text = match &args.text_file {
        Some(path) => read_text(path)?,
        None => args.text.clone().unwrap_or_default(),
    };
    let special = if args.no_special { SpecialTokens::Omit } else { SpecialTokens::Add };
    let ids = tokenizer.encode(&text, special)?;
    let tokens: Vec<String> =
        ids.iter().map(|&id| tokenizer.token(id).unwrap_or_default()).collect();
    if args.json {
        output::json(&json!({ "token_ids": ids, "tokens": tokens }))?;
    } else {
        let lines: Vec<String> =
            ids.iter().zip(&tokens).map(|(id, token)| format!("{id:>8}  {token:?}\n")).collect();
        output::text(&lines.concat())?;
    }
    Ok(Outcome::Done)
}
