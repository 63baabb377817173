//! `puna template`: a conversation exactly as the model sees it, with the token ids.

use std::path::PathBuf;

use anyhow::bail;
use puna_text::GenerationPrompt;
use serde_json::{Map, Value, json};

use crate::args::{ModelArgs, read_json};
use crate::chat_format::{ChatFormat, Rendering, TemplateArgs};
use crate::output;
use crate::report::Outcome;
use crate::text_side::TextSide;

/// Prints a conversation as the model's chat template renders it; the token ids go to stderr, or
/// with --json beside the text.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  puna template -m ./model --messages chat.json --json\n  \
    echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | puna template --template llama2 --messages -")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// JSON array of {"role", "content"} (- is stdin)
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// JSON array of tools
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Leave out what asks the model to answer
    #[arg(long)]
    no_generation_prompt: bool,
    /// Variable of the template; the value is JSON or else text; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    variable: Vec<String>,
    #[command(flatten)]
    template: TemplateArgs,
    /// Print {"rendered", "text", "token_ids"}; the first two are the same
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let model = args.model.resolve()?;
    let TextSide { tokenizer, template } = TextSide::of_model(&model)?;
    let format = ChatFormat::choose(&args.template, template.as_ref(), &model)?;
    let messages = read_json(&args.messages)?;
    if !messages.is_array() {
        bail!("{}: the messages are not a JSON array", args.messages.display());
    }
    let tools = args.tools.as_deref().map(read_json).transpose()?;
    let generation_prompt = match args.no_generation_prompt {
        true => GenerationPrompt::Omit,
        false => GenerationPrompt::Add,
    };
    let rendering = Rendering {
        tools: tools.as_ref(),
        generation_prompt,
        variables: variables(&args.variable)?,
    };
    let text = format.text(tokenizer.as_ref(), &messages, &rendering)?;
    let ids = match &tokenizer {
        Some(tokenizer) => Some(tokenizer.encode_rendered(&text)?),
        None => None,
    };
    if args.json {
        // "text" as in `generate`, "rendered" as chat data sets call it.
        output::json(&json!({ "rendered": text, "text": text, "token_ids": ids }))?;
    } else {
        output::text(&text)?;
        match ids {
            Some(ids) => output::note(&format!("\n{} tokens: {ids:?}", ids.len())),
            None => output::note("\nno tokenizer, no token ids"),
        }
    }
    Ok(Outcome::Done)
}

fn variables(typed: &[String]) -> anyhow::Result<Map<String, Value>> {
    let mut map = Map::new();
    for text in typed {
        let Some((name, value)) = text.split_once('=') else {
            bail!("`{text}` is not NAME=VALUE");
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
        map.insert(name.to_string(), value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    #[test]
    fn variables_are_json_or_text() {
        let map = super::variables(&["a=true".into(), "b=26 Jul 2024".into()]).unwrap();
        assert_eq!(map["a"], true);
        assert_eq!(map["b"], "26 Jul 2024");
        assert!(super::variables(&["a".into()]).is_err());
    }
}
