//! What stands before every endpoint: who may ask, and the form of what goes wrong.
//!
//! Order: host and origin (a web page on another site must not reach a server on this machine, also
//! not by a name that it makes point here), CORS, API key, shutting down. Then the endpoint; then its
//! error in the path's dialect, the headers, the count. `/health` and the static pages need no key:
//! they tell nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::api_error::{ApiError, Dialect};
use crate::app::{App, OpenRequest};
use crate::error::ServerError;
use crate::generation::draining;
use crate::routes;

/// Shortest key that guards anything.
const SHORTEST_KEY_BYTES: usize = 8;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Whom a request is for: a key, or else an address. Clients share the model equally.
#[derive(Debug, Clone)]
pub(crate) struct Client(pub(crate) String);

/// The API keys, as digests.
#[derive(Debug, Default)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl Keys {
    /// One key per line; empty lines and those that begin with `#` are none.
    pub(crate) fn read(path: &Path) -> Result<Self, ServerError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ServerError::KeyFile { path: path.to_owned(), source })?;
        let problem =
            |line, problem| ServerError::KeyFileContent { path: path.to_owned(), line, problem };
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let key = line.trim();
            if key.is_empty() || key.starts_with('#') {
                continue;
            }
            if key.len() < SHORTEST_KEY_BYTES {
                return Err(problem(index + 1, "a key needs at least 8 characters"));
            }
            if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(problem(index + 1, "a key is printable ASCII without blanks"));
            }
            keys.push(digest(key.as_bytes()));
        }
        if keys.is_empty() {
            return Err(problem(text.lines().count(), "there is no key in this file"));
        }
        Ok(Self(keys))
    }

    /// Whether requests need a key.
    fn are_set(&self) -> bool {
        !self.0.is_empty()
    }

    /// Which key this is. Every key is compared as a whole, so that the time says nothing.
    fn find(&self, given: &[u8]) -> Option<usize> {
        let given = digest(given);
        let mut found = None;
        for (index, key) in self.0.iter().enumerate() {
            let equal: Choice = key.ct_eq(&given);
            if equal.into() {
                found = Some(index);
            }
        }
        found
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The layer around all endpoints.
pub(crate) async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let dialect = Dialect::of(&path);
    let route = request.extensions().get::<MatchedPath>().map(|path| routes::known(path.as_str()));
    let origin = request.headers().get(ORIGIN).cloned();
    let mut open = None;
    let mut response = match admit(&app, &mut request, &mut open) {
        Ok(()) if is_preflight(&request, &app) => StatusCode::NO_CONTENT.into_response(),
        Ok(()) => next.run(request).await,
        Err(error) => error.response(dialect),
    };
    response = in_dialect(response, dialect, &path);
    add_headers(&app, response.headers_mut(), origin.as_ref());
    app.metrics.request(route.unwrap_or("other"), response.status().as_u16());
    match open {
        Some(open) => response.map(|body| Body::new(Counted { body, _open: open })),
        None => response,
    }
}

fn admit(app: &App, request: &mut Request, open: &mut Option<OpenRequest>) -> Result<(), ApiError> {
    check_host(app, request)?;
    check_origin(app, request.headers())?;
    if is_preflight(request, app) {
        return Ok(());
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    let address = peer.map_or_else(String::new, |ip| ip.to_string());
    let needs_key = app.keys.are_set() && !routes::is_public(request.uri().path());
    let client = match needs_key {
        true => format!("key {}", key(app, request.headers())?),
        false => address,
    };
    request.extensions_mut().insert(Client(client));
    if request.method() == Method::POST {
        *open = Some(app.accept().ok_or_else(draining)?);
    }
    Ok(())
}

fn key(app: &App, headers: &HeaderMap) -> Result<usize, ApiError> {
    let bearer = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, key) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
    });
    // Anthropic's clients.
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    given.and_then(|key| app.keys.find(key)).ok_or_else(ApiError::unauthorized)
}

/// A server on this machine answers only to names of this machine.
fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    if !app.is_loopback() {
        return Ok(());
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    for host in header.into_iter().map(str::to_owned).chain(authority) {
        let name = host_name(&host);
        let is_here = name.eq_ignore_ascii_case("localhost")
            || name.eq_ignore_ascii_case(&app.config.host)
            || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if !is_here {
            let message = "this server answers to names of its own machine only";
            return Err(ApiError::forbidden(message, "host_not_allowed"));
        }
    }
    match request.headers().contains_key(HOST) || request.uri().authority().is_some() {
        true => Ok(()),
        false => Err(ApiError::invalid("the request has no Host header")),
    }
}

/// `[::1]:80` to `::1`, `localhost:80` to `localhost`.
fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Pages of other sites may ask only where `--cors-origin` names them.
fn check_origin(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    if allowed_origin(app, origin) {
        return Ok(());
    }
    let same = origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(
        |(_, authority)| {
            headers.get(HOST).is_some_and(|host| host.as_bytes() == authority.as_bytes())
        },
    );
    match same {
        true => Ok(()),
        false => Err(ApiError::forbidden(
            "pages of this origin may not use this server (see --cors-origin)",
            "origin_not_allowed",
        )),
    }
}

fn allowed_origin(app: &App, origin: &HeaderValue) -> bool {
    let allowed = &app.config.cors_origins;
    allowed.iter().any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
}

fn is_preflight(request: &Request, app: &App) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key("access-control-request-method")
        && request.headers().get(ORIGIN).is_some_and(|origin| allowed_origin(app, origin))
}

fn add_headers(app: &App, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let Some(origin) = origin.filter(|origin| allowed_origin(app, origin)) else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.append(VARY, HeaderValue::from_static("Origin"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("authorization, content-type, x-api-key, anthropic-version"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

/// Errors that were not made here (the router's 404 and 405) get the object, and all of them the
/// form of the path's dialect.
fn in_dialect(response: Response, dialect: Dialect, path: &str) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let known = response.extensions().get::<ApiError>().cloned();
    if known.is_some() && dialect == Dialect::OpenAi {
        return response;
    }
    let error = known.unwrap_or_else(|| match status {
        StatusCode::NOT_FOUND => ApiError::not_found(path),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::protocol(status, "this path does not take this method")
                .code("method_not_allowed")
        }
        _ => ApiError::protocol(status, status.canonical_reason().unwrap_or("error")),
    });
    let (mut parts, _) = response.into_parts();
    let body = error.body(dialect).to_string();
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    parts.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

/// A body that counts as an open request until it is sent or given up.
struct Counted {
    body: Body,
    _open: OpenRequest,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, host_name};

    #[test]
    fn hosts_lose_their_port() {
        assert_eq!(host_name("[::1]:8080"), "::1");
        assert_eq!(host_name("localhost:8080"), "localhost");
        assert_eq!(host_name("localhost"), "localhost");
    }

    #[test]
    fn keys_are_found_whole_and_short_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "# for the web page\nsk-first-key\n\nsk-second-key \n").unwrap();
        let keys = Keys::read(&path).unwrap();
        assert_eq!(keys.find(b"sk-second-key"), Some(1));
        assert_eq!(keys.find(b"sk-second-ke"), None);
        for (text, problem) in [("short\n", "8 characters"), ("# none\n", "no key")] {
            std::fs::write(&path, text).unwrap();
            assert!(Keys::read(&path).unwrap_err().to_string().contains(problem));
        }
    }
}
