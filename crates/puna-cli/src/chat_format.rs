//! How a conversation becomes a prompt: the checkpoint's template, a chosen one, or plain text.

use std::path::Path;

use anyhow::{Context, anyhow};
use puna_text::{Builtin, ChatTemplate, CivilTime, GenerationPrompt, RenderInput, Tokenizer};
use serde_json::{Map, Value};

use crate::model_ref::ModelRef;
use crate::report::Hint;

/// Name for no template.
const NONE: &str = "none";

/// Which template.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct TemplateArgs {
    /// Chat template in place of the checkpoint's: llama2, llama3, alpaca, vicuna, chatml, none
    /// or a Jinja file
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,
}

/// How to make prompts of conversations.
pub(crate) enum ChatFormat<'a> {
    /// The checkpoint's own template.
    Own(&'a ChatTemplate),
    /// One named on the command line.
    Chosen(ChatTemplate),
}

/// What a template is rendered with, besides the messages.
pub(crate) struct Rendering<'a> {
    pub(crate) tools: Option<&'a Value>,
    pub(crate) generation_prompt: GenerationPrompt,
    pub(crate) variables: Map<String, Value>,
}

impl Default for Rendering<'_> {
    fn default() -> Self {
        Self { tools: None, generation_prompt: GenerationPrompt::Add, variables: Map::new() }
    }
}

impl<'a> ChatFormat<'a> {
    /// The template to use; `None` where there is none or none is wanted.
    pub(crate) fn find(
        args: &TemplateArgs,
        own: Option<&'a ChatTemplate>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(name) = args.template.as_deref() else { return Ok(own.map(Self::Own)) };
        if name == NONE {
            return Ok(None);
        }
        if let Some(builtin) = Builtin::from_name(name) {
            return Ok(Some(Self::Chosen(ChatTemplate::builtin(builtin))));
        }
        let source = std::fs::read_to_string(Path::new(name))
            .with_context(|| format!("`{name}` is neither a built-in template nor a file"))
            .hint(format!("built-in templates are {} and {NONE}", built_in_names()))?;
        let template =
            ChatTemplate::from_jinja(&source).with_context(|| format!("template {name}"))?;
        Ok(Some(Self::Chosen(template)))
    }

    /// As [`ChatFormat::find`], but there must be one.
    pub(crate) fn choose(
        args: &TemplateArgs,
        own: Option<&'a ChatTemplate>,
        origin: &ModelRef,
    ) -> anyhow::Result<Self> {
        Self::find(args, own)?
            .ok_or_else(|| anyhow!("{origin}: there is no chat template"))
            .hint(format!("name one with --template: {} or a Jinja file", built_in_names()))
    }

    fn template(&self) -> &ChatTemplate {
        match self {
            Self::Own(template) => template,
            Self::Chosen(template) => template,
        }
    }

    /// The text of a conversation as the model sees it.
    pub(crate) fn text(
        &self,
        tokenizer: Option<&Tokenizer>,
        messages: &Value,
        rendering: &Rendering<'_>,
    ) -> anyhow::Result<String> {
        Ok(self.template().render(&RenderInput {
            messages,
            tools: rendering.tools,
            add_generation_prompt: rendering.generation_prompt,
            bos_token: &tokenizer.map(Tokenizer::bos_text).unwrap_or_default(),
            eos_token: &tokenizer.map(Tokenizer::eos_text).unwrap_or_default(),
            variables: rendering.variables.clone(),
            now: Some(CivilTime::now_utc()),
        })?)
    }

    /// The token ids of a conversation, ready to be answered.
    pub(crate) fn ids(&self, tokenizer: &Tokenizer, messages: &Value) -> anyhow::Result<Vec<u32>> {
        let text = self.text(Some(tokenizer), messages, &Rendering::default())?;
        Ok(tokenizer.encode_rendered(&text)?)
    }
}

fn built_in_names() -> String {
    Builtin::ALL.map(Builtin::name).join(", ")
}
