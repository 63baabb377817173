//! `GET /api/tags`, `/api/ps`, `/api/version`; `POST /api/show`, `/api/embed`, `/api/embeddings`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{keep_alive, model_name, untagged};
use crate::api_error::ApiError;
use crate::app::App;
use crate::body::{self, Posted};
use crate::clock;
use crate::model::{Engine, Opened};
use crate::openai::embeddings::{self, Input};

/// The version of this program; clients ask for it to see whether a server is there.
pub(crate) async fn version() -> Response {
    body::json(&json!({ "version": env!("CARGO_PKG_VERSION") }))
}

/// The models there are.
pub(crate) async fn tags(State(app): State<Arc<App>>) -> Response {
    let resident = app.registry.resident().await;
    let models: Vec<Value> = app
        .registry
        .names()
        .into_iter()
        .map(|name| {
            let base = app.registry.base_of(name).unwrap_or(name);
            let engine = resident.iter().find(|r| r.name == base).map(|r| &*r.engine);
            entry(name, engine)
        })
        .collect();
    body::json(&json!({ "models": models }))
}

/// The models in memory.
pub(crate) async fn ps(State(app): State<Arc<App>>) -> Response {
    let resident = app.registry.resident().await;
    let entries = resident.iter().map(|resident| {
        let mut entry = entry(&resident.name, Some(&resident.engine));
        // Ollama's clients want a time: "forever" is a hundred years.
        let left = resident.expires_in.map_or(100 * 365 * 86_400, |time| time.as_secs());
        entry["expires_at"] = json!(clock::rfc3339_in(left));
        entry["size_vram"] = json!(0);
        entry["context_length"] = json!(resident.engine.context_tokens);
        entry
    });
    body::json(&json!({ "models": entries.collect::<Vec<_>>() }))
}

/// A model in lists; its size and kind are known once it is loaded.
fn entry(name: &str, engine: Option<&Engine>) -> Value {
    json!({
        "name": name, "model": name, "modified_at": clock::rfc3339_in(0),
        "size": engine.map_or(0, |engine| engine.served.facts.size_bytes),
        "digest": hex(&Sha256::digest(name.as_bytes())),
        "details": details(engine),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn details(engine: Option<&Engine>) -> Value {
    let facts = engine.map(|engine| engine.served.facts.clone()).unwrap_or_default();
    json!({
        "parent_model": "", "format": facts.format, "family": facts.family,
        "families": [facts.family], "parameter_size": parameter_size(facts.parameters),
        "quantization_level": facts.quantization,
    })
}

/// 5475584 as `5.5M`.
fn parameter_size(parameters: u64) -> String {
    let parameters = parameters as f64;
    match parameters {
        0.0 => String::new(),
        p if p >= 1e9 => format!("{:.1}B", p / 1e9),
        p => format!("{:.1}M", p / 1e6),
    }
}

/// What a model is.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let older: Option<String> = fields.take("name")?;
    let name = match older {
        Some(name) => untagged(&name).to_owned(),
        None => model_name(&mut fields, app.registry.first())?,
    };
    fields.switch("verbose")?;
    fields.finish()?;
    let Opened { engine, .. } = app.registry.open(&name).await?;
    let served = &engine.served;
    let mut capabilities = vec!["completion", "embedding"];
    if engine.tool_format.is_some() {
        capabilities.push("tools");
    }
    let config = served.decoder.config();
    let family = &served.facts.family;
    Ok(body::json(&json!({
        "modelfile": format!("FROM {name}\n"),
        "parameters": "",
        "template": served.template.as_ref().map_or("", |template| template.source()),
        "details": details(Some(&engine)),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": served.facts.parameters,
            format!("{family}.context_length"): engine.context_tokens,
            format!("{family}.embedding_length"): config.hidden_size,
            format!("{family}.block_count"): config.num_layers,
        },
        "capabilities": capabilities,
        "modified_at": clock::rfc3339_in(0),
    })))
}

/// Embeddings of one or several texts.
pub(crate) async fn embed(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let started = std::time::Instant::now();
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let keep = keep_alive(&mut fields)?;
    let input = fields.value("input").ok_or_else(|| ApiError::missing("input"))?;
    fields.refuse("truncate", &[json!(false)], "texts are never cut; a longer one is an error")?;
    fields.refuse("options", &[json!({})], "embeddings have no options")?;
    fields.finish()?;
    let model = app.registry.open(&name).await?;
    let inputs = embeddings::inputs(input, "input")?;
    let (vectors, tokens) = embeddings::compute(&app, &model, inputs).await?;
    app.registry.keep(&name, keep);
    Ok(body::json(&json!({
        "model": name, "embeddings": vectors, "total_duration": nanos(started.elapsed()),
        "load_duration": nanos(model.load_time), "prompt_eval_count": tokens,
    })))
}

/// The older form: one text, one vector.
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { mut fields, .. } = body::read(&app, request).await?;
    let name = model_name(&mut fields, app.registry.first())?;
    let keep = keep_alive(&mut fields)?;
    let text: String = fields.need("prompt")?;
    fields.refuse("options", &[json!({})], "embeddings have no options")?;
    fields.finish()?;
    let model = app.registry.open(&name).await?;
    let (mut vectors, _) = embeddings::compute(&app, &model, vec![Input::Text(text)]).await?;
    app.registry.keep(&name, keep);
    Ok(body::json(&json!({ "embedding": vectors.pop().unwrap_or_default() })))
}

/// A time as Ollama gives it.
pub(super) fn nanos(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        assert_eq!(super::parameter_size(5_475_584), "5.5M");
        assert_eq!(super::parameter_size(8_030_261_248), "8.0B");
    }
}
