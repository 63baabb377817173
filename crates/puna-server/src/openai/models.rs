//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body;
use crate::model::Resident;

/// Lists what requests can name.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let resident = app.registry.resident().await;
    let models = app.registry.names().into_iter().map(|name| card(&app, name, &resident));
    body::json(&json!({ "object": "list", "data": models.collect::<Vec<_>>() }))
}

/// One of them.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    match app.registry.base_of(&name) {
        Some(_) => Ok(body::json(&card(&app, &name, &app.registry.resident().await))),
        None => Err(ApiError::model_not_found(&name, &app.registry.names().join(", "))),
    }
}

/// A model as OpenAI describes it; like vLLM's, with the context, known once the model is loaded.
fn card(app: &App, name: &str, resident: &[Resident]) -> Value {
    let base = app.registry.base_of(name).unwrap_or(name);
    let loaded = resident.iter().find(|resident| resident.name == base);
    json!({
        "id": name, "object": "model", "created": app.registry.since_unix_secs,
        "owned_by": "puna", "root": base, "parent": (base != name).then_some(base),
        "max_model_len": loaded.map(|resident| resident.engine.context_tokens),
    })
}
