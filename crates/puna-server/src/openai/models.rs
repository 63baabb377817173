//! `GET /v1/models` and `GET /v1/models/{name}`.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::Response;
use serde_json::{Value, json};

use crate::api_error::ApiError;
use crate::app::App;
use crate::body;

/// Lists what requests can name.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let models: Vec<Value> = app.registry.names().iter().map(|name| card(&app, name)).collect();
    body::json(&json!({ "object": "list", "data": models }))
}

/// One of them.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    match app.registry.base_of(&name) {
        Some(_) => Ok(body::json(&card(&app, &name))),
        None => Err(ApiError::model_not_found(&name, &app.registry.names().join(", "))),
    }
}

fn card(app: &App, name: &str) -> Value {
    let base = app.registry.base_of(name).filter(|&base| base != name);
    json!({
        "id": name, "object": "model", "created": app.registry.since_unix_secs,
        "owned_by": "puna", "root": base.unwrap_or(name), "parent": base,
    })
}
