//! What the tools of a request ask of its prompt and of its answer.

use super::{Format, Toolbox};
use crate::api_error::ApiError;
use crate::model::{Engine, Grammar};
use crate::prompt::Conversation;

/// How an answer is written and read.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// How calls are written, where tools may be called.
    pub(crate) format: Option<Format>,
    /// What the text has to be, and the field that said so.
    pub(crate) grammar: Option<(Grammar, &'static str)>,
    /// Special tokens whose text the reader of calls has to see.
    pub(crate) visible_specials: Vec<u32>,
}

impl Offer {
    /// An answer that calls nothing.
    pub(crate) fn text(grammar: Option<(Grammar, &'static str)>) -> Self {
        Self { grammar, ..Self::default() }
    }

    /// Puts the tools into the conversation; `grammar` is what else was asked of the text.
    ///
    /// # Errors
    /// A template without a place for tools, and tools together with a grammar.
    pub(crate) fn new(
        engine: &Engine,
        toolbox: Option<&Toolbox>,
        conversation: &mut Conversation,
        grammar: Option<(Grammar, &'static str)>,
    ) -> Result<Self, ApiError> {
        let Some((toolbox, tools)) = toolbox.and_then(|all| Some((all, all.for_template()?)))
        else {
            return Ok(Self::text(grammar));
        };
        let reason = "this model's chat template has no place for tools";
        let format = engine.tool_format.ok_or_else(|| ApiError::unsupported("tools", reason))?;
        if let Some((_, param)) = grammar {
            return Err(ApiError::field(param, "cannot be combined with tools"));
        }
        conversation.tools = Some(tools);
        Ok(Self {
            format: Some(format),
            grammar: toolbox.grammar(format).map(|grammar| (grammar, "tools")),
            visible_specials: format.visible_specials(&engine.served.tokenizer),
        })
    }
}
