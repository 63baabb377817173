//! What a client is told when something is wrong: OpenAI's error object, made in one place.
//!
//! `{"error": {"message", "type", "param", "code"}}`. Under `/api/` the same error is Ollama's
//! `{"error": "message"}` and under `/v1/messages` Anthropic's object around the same one: a client
//! library of either reads its own form only. [`ApiError`] travels in the response's extensions, and
//! the outermost layer writes the form that belongs to the path (`guard.rs`).

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

/// An error a client can act on.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    kind: &'static str,
    pub(crate) message: String,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after_secs: Option<u32>,
}

/// Which client library reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Ollama,
    Anthropic,
}

impl Dialect {
    /// The dialect of a path.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, message, param: None, code: None, retry_after_secs: None }
    }

    /// 400 without a field to blame.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    /// 400: a field has a value that cannot be.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = param.into();
        let error = Self::invalid(format!("{param}: {}", message.into())).code("invalid_value");
        Self { param: Some(param), ..error }
    }

    /// 400: a field that is not known here.
    pub(crate) fn unknown_field(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("{param}: there is no such field here; nothing is ignored silently");
        Self { param: Some(param), ..Self::invalid(message).code("unknown_parameter") }
    }

    /// 400: a known field that is not supported.
    pub(crate) fn unsupported(param: impl Into<String>, reason: &str) -> Self {
        let param = param.into();
        let error = Self::invalid(format!("{param} is not supported: {reason}"));
        Self { param: Some(param), ..error.code("unsupported_parameter") }
    }

    /// 400: a field that must be there.
    pub(crate) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let error = Self::invalid(format!("{param}: this field is required"));
        Self { param: Some(param), ..error.code("missing_required_parameter") }
    }

    /// 400: more tokens than the context or the server's limit holds.
    pub(crate) fn too_long(param: &str, message: String) -> Self {
        Self { param: Some(param.into()), ..Self::invalid(message).code("context_length_exceeded") }
    }

    /// 404: no such model.
    pub(crate) fn model_not_found(name: &str, known: &str) -> Self {
        let shown: String = name.chars().take(100).collect();
        let message = format!("there is no model `{shown}` here; there are: {known}");
        let error = Self::new(StatusCode::NOT_FOUND, INVALID, message).code("model_not_found");
        Self { param: Some("model".into()), ..error }
    }

    /// 404: no such path.
    pub(crate) fn not_found(path: &str) -> Self {
        let shown: String = path.chars().take(100).collect();
        Self::new(StatusCode::NOT_FOUND, INVALID, format!("there is nothing at {shown}"))
            .code("not_found")
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        let message = "this server needs an API key: send it as `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// 403: a host or an origin that is not this server's.
    pub(crate) fn forbidden(message: impl Into<String>, code: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message).code(code)
    }

    /// 405, 408, 413, 415 and whatever else the protocol says.
    pub(crate) fn protocol(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = if status.is_server_error() { SERVER } else { INVALID };
        Self::new(status, kind, message)
    }

    /// 429: the queue is full.
    pub(crate) fn busy(message: impl Into<String>, retry_after_secs: u32) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { retry_after_secs: Some(retry_after_secs), ..error.code("queue_full") }
    }

    /// 503: not now.
    pub(crate) fn unavailable(message: impl Into<String>, code: &'static str) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message).code(code);
        Self { retry_after_secs: Some(5), ..error }
    }

    /// 504: the request's time was up before its answer began.
    pub(crate) fn timeout() -> Self {
        let message = "the request took longer than this server allows";
        Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, message).code("timeout")
    }

    /// 500, with a message that says no more than a client may know.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message).code("internal_error")
    }

    /// Sets the code.
    #[must_use]
    pub(crate) fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Puts `prefix.` before the field's name.
    #[must_use]
    pub(crate) fn within(self, prefix: &str) -> Self {
        let Some(param) = &self.param else { return self };
        let joined = if param.starts_with('[') || param.is_empty() {
            format!("{prefix}{param}")
        } else {
            format!("{prefix}.{param}")
        };
        let message = match self.message.strip_prefix(param.as_str()) {
            Some(rest) => format!("{joined}{rest}"),
            None => self.message.clone(),
        };
        Self { param: Some(joined), message, ..self }
    }

    /// The body in a dialect.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        if dialect == Dialect::Ollama {
            return json!({ "error": self.message });
        }
        let error = json!({
            "message": self.message,
            "type": self.anthropic_kind(dialect),
            "param": self.param,
            "code": self.code,
        });
        match dialect {
            Dialect::Anthropic => json!({ "type": "error", "error": error }),
            _ => json!({ "error": error }),
        }
    }

    /// Anthropic's words for the kinds that it names otherwise.
    fn anthropic_kind(&self, dialect: Dialect) -> &'static str {
        match (dialect, self.status) {
            (Dialect::Anthropic, StatusCode::NOT_FOUND) => "not_found_error",
            (Dialect::Anthropic, StatusCode::PAYLOAD_TOO_LARGE) => "request_too_large",
            (Dialect::Anthropic, StatusCode::SERVICE_UNAVAILABLE) => "overloaded_error",
            (Dialect::Anthropic, status) if status.is_server_error() => "api_error",
            _ => self.kind,
        }
    }

    /// The response in a dialect, with the error attached for the layers above.
    pub(crate) fn response(self, dialect: Dialect) -> Response {
        let mut response =
            (self.status, [(CONTENT_TYPE, "application/json")], self.body(dialect).to_string())
                .into_response();
        if let Some(seconds) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.response(Dialect::OpenAi)
    }
}

#[cfg(test)]
mod tests {
    use super::{ApiError, Dialect};

    #[test]
    fn a_field_inside_another_is_named_with_its_path() {
        let error = ApiError::field("content", "expected text").within("messages[3]");
        assert_eq!(error.body(Dialect::OpenAi)["error"]["param"], "messages[3].content");
        assert_eq!(error.message, "messages[3].content: expected text");
    }

    #[test]
    fn each_dialect_has_its_own_form() {
        let error = ApiError::missing("model");
        assert!(error.body(Dialect::Ollama)["error"].is_string());
        assert_eq!(error.body(Dialect::Anthropic)["type"], "error");
        assert_eq!(error.body(Dialect::Anthropic)["error"]["param"], "model");
    }
}
