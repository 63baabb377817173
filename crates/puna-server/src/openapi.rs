//! `GET /openapi.json`: the API's description (OpenAPI 3.1).
//!
//! Written by hand in Rust values: the requests are read field by field (`fields.rs`), not through
//! derived types, so that there is no type to derive it from. A test sends every field that stands
//! here with a wrong value and checks that the endpoint knows it.

mod requests;
mod schemas;

use std::sync::LazyLock;

use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::body;

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The description.
pub(crate) async fn document() -> Response {
    body::json(&DOCUMENT)
}

/// How an answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    Json,
    /// JSON, or server-sent events where `stream` is set.
    JsonOrEvents,
    /// Lines of JSON unless `stream` is unset.
    JsonOrLines,
    Text,
    /// Lines of JSON.
    Lines,
}

fn build() -> Value {
    let mut paths = Map::new();
    for (path, summary, answers, response) in schemas::READS {
        let operation = operation(path, summary, answers, response);
        paths.insert(path.to_owned(), json!({ "get": operation }));
    }
    for request in requests::all() {
        let mut operation =
            operation(request.path, request.summary, request.answers, request.response);
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": {
                "schema": request.schema, "example": request.example,
            } },
        });
        paths.insert(request.path.to_owned(), json!({ "post": operation }));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "puna",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "OpenAI's, Ollama's and Anthropic's APIs for the models of one puna \
                            server. A field that is not described is refused by name.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas::shared(),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{}, { "key": [] }],
    })
}

fn operation(path: &str, summary: &str, answers: Answers, response: &str) -> Value {
    let schema = json!({ "$ref": format!("#/components/schemas/{response}") });
    let mut content = Map::new();
    match answers {
        Answers::Text => {
            content.insert("text/plain".to_owned(), json!({ "schema": { "type": "string" } }));
        }
        Answers::Lines => {
            let schema = json!({ "schema": { "type": "string" } });
            content.insert("application/x-ndjson".to_owned(), schema);
        }
        _ => {
            content.insert("application/json".to_owned(), json!({ "schema": schema }));
        }
    }
    let stream = match answers {
        Answers::JsonOrEvents => Some("text/event-stream"),
        Answers::JsonOrLines => Some("application/x-ndjson"),
        Answers::Json | Answers::Text | Answers::Lines => None,
    };
    if let Some(kind) = stream {
        content.insert(kind.to_owned(), json!({ "schema": { "type": "string" } }));
    }
    let error = match path.starts_with("/api/") {
        true => "OllamaError",
        false => "Error",
    };
    let error = json!({ "schema": { "$ref": format!("#/components/schemas/{error}") } });
    let mut operation = json!({
        "summary": summary,
        "operationId": path.trim_matches('/').replace(['/', '{', '}', '.'], "_"),
        "responses": {
            "200": { "description": "The answer.", "content": content },
            "default": {
                "description": "What is wrong.", "content": { "application/json": error },
            },
        },
    });
    if path.contains('{') {
        operation["parameters"] = json!([{
            "name": "name", "in": "path", "required": true, "schema": { "type": "string" },
        }]);
    }
    operation
}
