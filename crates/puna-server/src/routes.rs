//! The paths, and what answers each.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::json;

use crate::api_error::ApiError;
use crate::app::App;
use crate::{anthropic, body, guard, ollama, openai, openapi, pages, studio, tokenize};

/// Paths of the API; metrics count by them.
const PATHS: [&str; 29] = [
    "/health",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/v1/models",
    "/v1/models/{*name}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/plan",
    "/v1/runs",
    "/v1/runs/{name}/metrics",
    "/v1/feedback",
    "/tokenize",
    "/detokenize",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/version",
    "/",
    "/docs.js",
    "/docs.css",
];

/// The route as metrics know it.
pub(crate) fn known(path: &str) -> &'static str {
    PATHS.into_iter().find(|known| *known == path).unwrap_or("page")
}

/// Whether a path needs no key: pages, and whether the server lives.
pub(crate) fn is_public(path: &str) -> bool {
    !(path == "/metrics"
        || path == "/tokenize"
        || path == "/detokenize"
        || path.starts_with("/v1/")
        || path.starts_with("/api/"))
}

/// All endpoints behind the guard.
pub(crate) fn router(app: &Arc<App>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(pages::docs))
        .route("/docs.js", get(pages::docs_script))
        .route("/docs.css", get(pages::docs_style))
        .route("/v1/models", get(openai::models::list))
        .route("/v1/models/{*name}", get(openai::models::show))
        .route("/v1/chat/completions", post(openai::chat::chat))
        .route("/v1/completions", post(openai::completions::completions))
        .route("/v1/responses", post(openai::responses::responses))
        .route("/v1/embeddings", post(openai::embeddings::embeddings))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .route("/v1/plan", get(studio::plan))
        .route("/v1/runs", get(studio::runs))
        .route("/v1/runs/{name}/metrics", get(studio::metrics))
        .route("/v1/feedback", post(studio::feedback))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/api/chat", post(ollama::generate::chat))
        .route("/api/generate", post(ollama::generate::generate))
        .route("/api/embed", post(ollama::info::embed))
        .route("/api/embeddings", post(ollama::info::embeddings))
        .route("/api/tags", get(ollama::info::tags))
        .route("/api/ps", get(ollama::info::ps))
        .route("/api/show", post(ollama::info::show))
        .route("/api/version", get(ollama::info::version))
        .route("/", get(pages::index))
        .fallback(other)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(app), guard::guard))
        .with_state(Arc::clone(app))
}

/// Whether the server takes requests: 503 while it shuts down, so that a load balancer turns away.
async fn health(State(app): State<Arc<App>>) -> Response {
    let (status, word) = match app.is_draining() {
        false => (StatusCode::OK, "ok"),
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    if status == StatusCode::OK {
        return body::json(&json!({ "status": word }));
    }
    crate::generation::draining().into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(&app.registry.resident().await, app.open_requests());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// The web page's files, and what is nowhere.
async fn other(request: Request) -> Result<Response, ApiError> {
    pages::file(&request).ok_or_else(|| ApiError::not_found(request.uri().path()))
}

#[cfg(test)]
mod tests {
    use super::is_public;

    #[test]
    fn only_pages_and_health_need_no_key() {
        for path in ["/health", "/", "/docs", "/assets/index.js", "/openapi.json"] {
            assert!(is_public(path), "{path}");
        }
        for path in ["/metrics", "/v1/models", "/api/tags", "/tokenize"] {
            assert!(!is_public(path), "{path}");
        }
    }
}
