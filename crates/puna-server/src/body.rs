//! Bodies in: limits of size, time and type. Bodies out: JSON, and streams of events.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_core::Stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api_error::{ApiError, Dialect};
use crate::app::App;
use crate::fields::Fields;
use crate::guard::Client;
use crate::json;

/// Time for a whole body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Silence after which a stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Time after which a reader that takes nothing counts as gone.
const STALL_TIMEOUT: Duration = Duration::from_secs(300);
/// Events that may wait for a slow reader.
const EVENTS_AHEAD: usize = 16;

/// A request's fields, and whom it is for.
pub(crate) struct Posted {
    pub(crate) fields: Fields,
    pub(crate) client: String,
}

/// Reads a request with a JSON body.
pub(crate) async fn read(app: &App, request: Request) -> Result<Posted, ApiError> {
    let limit = app.config.max_body_bytes;
    let too_large = || {
        let message = format!("the body is larger than this server's limit of {limit} bytes");
        ApiError::protocol(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large")
    };
    // Ollama's documentation posts with curl's default type.
    if Dialect::of(request.uri().path()) != Dialect::Ollama {
        check_type(request.headers())?;
    }
    if request.headers().contains_key(http::header::CONTENT_ENCODING) {
        return Err(ApiError::protocol(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "compressed bodies are not read",
        )
        .code("unsupported_media_type"));
    }
    let stated = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    if stated.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large());
    }
    let client = request.extensions().get::<Client>().map_or_else(String::new, |c| c.0.clone());
    let body = Limited::new(request.into_body(), limit).collect();
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(ApiError::invalid("the body did not arrive whole")),
        Err(_) => {
            let status = StatusCode::REQUEST_TIMEOUT;
            return Err(
                ApiError::protocol(status, "the body took too long to arrive").code("body_timeout")
            );
        }
    };
    Ok(Posted { fields: Fields::new(json::object(&bytes)?), client })
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let mime = given.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if mime == "application/json" {
        return Ok(());
    }
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(ApiError::protocol(status, "send JSON, with the header `Content-Type: application/json`")
        .code("unsupported_media_type"))
}

/// A JSON answer.
pub(crate) fn json(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

/// How events stand in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Server-sent events: `data: …`.
    Sse,
    /// A JSON value per line.
    NdJson,
}

/// The reader of a stream has gone.
#[derive(Debug)]
pub(crate) struct Gone;

/// The writing end of a stream.
pub(crate) struct EventWriter {
    sender: mpsc::Sender<Bytes>,
    framing: Framing,
}

impl EventWriter {
    /// Writes an event.
    pub(crate) async fn data(&self, value: &Value) -> Result<(), Gone> {
        let text = match self.framing {
            Framing::Sse => format!("data: {value}\n\n"),
            Framing::NdJson => format!("{value}\n"),
        };
        self.raw(text).await
    }

    /// Writes an event with a name.
    pub(crate) async fn named(&self, name: &str, value: &Value) -> Result<(), Gone> {
        self.raw(format!("event: {name}\ndata: {value}\n\n")).await
    }

    /// Writes the end that OpenAI's clients wait for.
    pub(crate) async fn done(&self) -> Result<(), Gone> {
        self.raw("data: [DONE]\n\n".to_owned()).await
    }

    async fn raw(&self, text: String) -> Result<(), Gone> {
        let sent = self.sender.send_timeout(Bytes::from(text), STALL_TIMEOUT).await;
        sent.map_err(|_| Gone)
    }

    /// Waits for something while the stream stays alive.
    pub(crate) async fn waiting<T>(&self, future: impl Future<Output = T>) -> Result<T, Gone> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return Ok(value),
                () = self.sender.closed() => return Err(Gone),
                () = tokio::time::sleep(KEEP_ALIVE) => {
                    // A comment; lines of JSON have none.
                    if self.framing == Framing::Sse {
                        self.raw(": waiting\n\n".to_owned()).await?;
                    }
                }
            }
        }
    }
}

/// A response whose body `work` writes.
pub(crate) fn stream<F>(framing: Framing, work: impl FnOnce(EventWriter) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(EVENTS_AHEAD);
    let work = work(EventWriter { sender, framing });
    tokio::spawn(async move {
        // A reader that has gone has dropped all there was to tell.
        let _ = work.await;
    });
    let mut response = Body::from_stream(Events(receiver)).into_response();
    let kind = match framing {
        Framing::Sse => "text/event-stream; charset=utf-8",
        Framing::NdJson => "application/x-ndjson",
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would gather events into blocks.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The reading end.
struct Events(mpsc::Receiver<Bytes>);

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|event| event.map(Ok))
    }
}

/// Something that may take a processor for a while, away from the threads that serve connections.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(ApiError::internal("the request could not be worked on")))
}
