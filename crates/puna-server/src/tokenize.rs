//! `POST /tokenize` and `POST /detokenize`, with llama.cpp's and vLLM's names for their fields.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use puna_text::{DecodeSpecials, SpecialTokens};
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted, blocking};
use crate::openai::model_name;
use crate::prompt::{self, Conversation};

/// Text or a conversation to token ids.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let content: Option<String> = fields.take("content")?;
    let prompt: Option<String> = fields.take("prompt")?;
    let messages = fields.value("messages");
    let add: Option<bool> = fields.take("add_special_tokens")?.or(fields.take("add_special")?);
    let pieces = fields.switch("with_pieces")? || fields.switch("return_token_strs")?;
    fields.finish()?;
    let model = app.registry.open(&name).await?;
    let engine = &model.engine;
    let tokens = match (content.or(prompt), messages) {
        (Some(text), None) => {
            // vLLM's default; llama.cpp's is the other.
            let special = match add {
                Some(false) => SpecialTokens::Omit,
                _ => SpecialTokens::Add,
            };
            prompt::encode(&app, engine, text, special).await?
        }
        (None, Some(_)) if add.is_some() => {
            let reason = "a conversation's template puts them";
            return Err(ApiError::unsupported("add_special_tokens", reason));
        }
        (None, Some(messages)) => {
            let messages = prompt::messages(messages, "messages")?;
            prompt::render(&app, engine, Conversation::new(messages)).await?
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::field("messages", "give either text or messages"));
        }
        (None, None) => return Err(ApiError::missing("content")),
    };
    let tokenizer = &engine.served.tokenizer;
    let mut answer = json!({
        "tokens": tokens, "count": tokens.len(), "max_model_len": engine.context_tokens,
    });
    if pieces {
        let texts = tokens.iter().map(|&id| tokenizer.token(id)).collect::<Vec<_>>();
        answer["token_strs"] = json!(texts);
    }
    Ok(body::json(&answer))
}

/// Token ids to text.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let tokens: Vec<u32> = fields.need("tokens")?;
    fields.finish()?;
    let engine = app.registry.open(&name).await?.engine;
    let text: String = blocking(move || {
        let tokenizer = &engine.served.tokenizer;
        let size = tokenizer.vocab_size();
        if let Some(at) = tokens.iter().position(|&id| id as usize >= size) {
            let message = format!("there are {size} tokens, from 0 on");
            return Err(ApiError::field(format!("tokens[{at}]"), message));
        }
        tokenizer
            .decode(&tokens, DecodeSpecials::Keep)
            .map_err(|error| ApiError::field("tokens", error.to_string()))
    })
    .await?;
    let answer: Value = json!({ "content": text, "prompt": text });
    Ok(body::json(&answer))
}
