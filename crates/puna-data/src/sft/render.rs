//! Conversations to text, by the model's own template, exactly as they are when the model answers.
//!
//! `puna chat` and `puna template` render with [`ChatTemplate::render`], the tokenizer's own texts
//! of bos and eos, and encode with [`Tokenizer::encode_rendered`]; so does this. A template that
//! differs between training and use is the most common reason of gibberish after fine-tuning.

use puna_text::{
    Builtin, ChatTemplate, CivilTime, GenerationPrompt, RenderInput, TextError, Tokenizer,
};
use serde_json::{Map, Value};

use super::conversation::{Conversation, content, role, tool_calls};
use super::error::SftError;
use super::tools::{self, ToolStyle};

/// What makes text and tokens of conversations.
#[derive(Debug, Clone)]
pub struct Renderer<'a> {
    /// The model's chat template, or one chosen for a model without.
    pub template: &'a ChatTemplate,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
    /// The time that templates with a date print. A run that is continued later must give the
    /// same, or its tokens change.
    pub now: Option<CivilTime>,
    /// How functions are written.
    pub tools: ToolStyle,
}

/// A conversation as its template takes it.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) messages: Vec<Value>,
    tools: Option<Value>,
    variables: Map<String, Value>,
}

impl<'a> Renderer<'a> {
    /// With no variables, no date, and tools as the template writes them.
    pub fn new(template: &'a ChatTemplate, tokenizer: &'a Tokenizer) -> Self {
        Self { template, tokenizer, variables: Map::new(), now: None, tools: ToolStyle::Template }
    }

    /// The first `messages` messages of a conversation (all, if there are fewer) as text, as the
    /// model sees them.
    ///
    /// # Errors
    /// If the template refuses them or fails.
    pub fn text(
        &self,
        conversation: &Conversation,
        messages: usize,
        prompt: GenerationPrompt,
    ) -> Result<String, SftError> {
        self.render(&self.prepare(conversation), messages, prompt)
            .map_err(|source| SftError::Text { place: conversation.place.clone(), source })
    }

    /// Brings tools and Alpaca's input into the form that the template takes.
    pub(super) fn prepare(&self, conversation: &Conversation) -> Prepared {
        let (mut messages, tools) = match self.tools {
            ToolStyle::Template => (conversation.messages.clone(), conversation.tools.clone()),
            ToolStyle::Text => (tools::as_text(conversation), None),
        };
        let mut variables = self.variables.clone();
        if let Some(input) = &conversation.input {
            let alone = messages.iter().filter(|message| role(message) != "assistant").count() == 1;
            if alone && self.template.source() == Builtin::Alpaca.source() {
                variables.insert("input".into(), input.as_str().into());
            } else if let Some(last) = messages.iter_mut().rfind(|m| role(m) == "user") {
                last["content"] = format!("{}\n{input}", content(last)).into();
            }
        }
        Prepared { messages, tools: tools.map(Value::Array), variables }
    }

    /// The first `count` messages as text.
    pub(super) fn render(
        &self,
        prepared: &Prepared,
        count: usize,
        prompt: GenerationPrompt,
    ) -> Result<String, TextError> {
        let messages = prepared.messages.iter().take(count).cloned().collect();
        self.template.render(&RenderInput {
            messages: &Value::Array(messages),
            tools: prepared.tools.as_ref(),
            add_generation_prompt: prompt,
            bos_token: &self.tokenizer.bos_text(),
            eos_token: &self.tokenizer.eos_text(),
            variables: prepared.variables.clone(),
            now: self.now,
        })
    }

    /// What a rendering lacks of the conversation's tools; most templates know none and leave
    /// them out without a word.
    pub(super) fn lost(&self, prepared: &Prepared, rendered: &str) -> Option<&'static str> {
        let declared = prepared.tools.as_ref().and_then(Value::as_array);
        let mut declared = declared.into_iter().flatten();
        if !declared.all(|tool| rendered.contains(tools::function_name(tool))) {
            return Some("the list of tools");
        }
        let mut results = prepared.messages.iter().filter(|message| role(message) == "tool");
        // A template may quote or escape a result, but keeps its first plain word.
        let word = |text: &str| {
            let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
            words.find(|word| !word.is_empty()).map(str::to_owned)
        };
        if !results.all(|result| word(content(result)).is_none_or(|word| rendered.contains(&word)))
        {
            return Some("results of tools");
        }
        None
    }

    /// Whether the text of an answer lacks a call that the answer makes.
    pub(super) fn loses_call(&self, answer: &Value, text: &str) -> bool {
        tool_calls(answer).iter().any(|call| !text.contains(tools::function_name(call)))
    }
}
