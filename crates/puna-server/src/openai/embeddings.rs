//! `POST /v1/embeddings`: a text's hidden states behind the final norm, averaged over its tokens and
//! scaled to length 1.
//!
//! Mean pooling is what decoders without a trained pooling of their own do best with (llama.cpp's
//! `--pooling mean`, sentence-transformers' default).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use puna_text::SpecialTokens;
use serde_json::{Value, json};

use super::{client_of, model_name};
use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted, blocking};
use crate::generation::context_message;
use crate::model::Opened;
use crate::prompt;

/// Texts in one request: OpenAI's limit.
const MOST_INPUTS: usize = 2048;

/// A text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// How vectors stand in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Float,
    /// Little-endian f32.
    Base64,
}

/// Embeds texts.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, client } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let input = fields.value("input").ok_or_else(|| ApiError::missing("input"))?;
    let encoding = match fields.take::<String>("encoding_format")?.as_deref() {
        None | Some("float") => Encoding::Float,
        Some("base64") => Encoding::Base64,
        Some(_) => return Err(ApiError::field("encoding_format", "expected float or base64")),
    };
    let dimensions = fields.count("dimensions", 1..=usize::MAX)?;
    client_of(&mut fields, client)?;
    fields.finish()?;
    let model = app.registry.open(&name).await?;
    let hidden_size = model.engine.served.decoder.config().hidden_size;
    if dimensions.is_some_and(|wanted| wanted != hidden_size) {
        let reason = format!("this model's vectors have {hidden_size} and cannot be shortened");
        return Err(ApiError::unsupported("dimensions", &reason));
    }
    let (vectors, tokens) = compute(&app, &model, inputs(input, "input")?).await?;
    let data: Vec<Value> = vectors
        .iter()
        .enumerate()
        .map(|(index, vector)| {
            json!({ "object": "embedding", "index": index, "embedding": encode(vector, encoding) })
        })
        .collect();
    Ok(body::json(&json!({
        "object": "list", "data": data, "model": name,
        "usage": { "prompt_tokens": tokens, "total_tokens": tokens },
    })))
}

fn encode(vector: &[f32], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Float => json!(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            json!(base64::engine::general_purpose::STANDARD.encode(bytes))
        }
    }
}

/// One text or several, as text or as token ids.
pub(crate) fn inputs(value: Value, param: &str) -> Result<Vec<Input>, ApiError> {
    let expected = || ApiError::field(param, "expected text, token ids, or a list of either");
    let list = match value {
        Value::Array(list) if list.is_empty() => return Err(ApiError::field(param, "is empty")),
        Value::Array(list) if list.iter().all(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        one => vec![one],
    };
    if list.len() > MOST_INPUTS {
        return Err(ApiError::field(param, format!("at most {MOST_INPUTS} texts")));
    }
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let input = |value: Value| match value {
        Value::String(text) if text.is_empty() => Err(ApiError::field(param, "a text is empty")),
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(ids) if !ids.is_empty() => {
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            ids.map(Input::Tokens).ok_or_else(expected)
        }
        _ => Err(expected()),
    };
    list.into_iter().map(input).collect()
}

/// The vectors, and how many tokens they took.
pub(crate) async fn compute(
    app: &Arc<App>,
    model: &Opened,
    inputs: Vec<Input>,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let (mut vectors, mut tokens) = (Vec::with_capacity(inputs.len()), 0);
    let line = &model.engine.embeddings;
    let _place = line.enter().ok_or_else(|| {
        app.metrics.refused();
        ApiError::busy("too many requests for embeddings are waiting already", 1)
    })?;
    for input in inputs {
        let engine = Arc::clone(&model.engine);
        let ids = match input {
            Input::Text(text) => prompt::encode(app, &engine, text, SpecialTokens::Add).await?,
            Input::Tokens(ids) => ids,
        };
        let context = engine.context_tokens;
        let most = app.config.max_prompt_tokens.unwrap_or(context).min(context);
        if ids.len() > most {
            return Err(ApiError::too_long("input", context_message(ids.len(), 0, most)));
        }
        tokens += ids.len();
        let cache = engine.cache(model.adapter.as_deref());
        let _turn = line.turn().await;
        vectors.push(blocking(move || engine.embed(&ids, cache)).await?);
    }
    app.metrics.prompt_tokens(tokens);
    Ok((vectors, tokens))
}
