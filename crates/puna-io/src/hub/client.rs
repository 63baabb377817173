//! The three requests of the Hub's protocol that a download needs.
//!
//! | request | answer |
//! |---|---|
//! | GET `/api/models/REPO/revision/REV` | JSON with the commit and the file names |
//! | HEAD `/REPO/resolve/COMMIT/FILE` | hash and size, as headers, before any redirect to a CDN |
//! | GET the same, with `Range` | the contents, behind redirects |
//!
//! The token goes to the Hub's own address only, never to where it redirects.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, SendBody};

use super::names;
use crate::IoError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For each read: a stalled connection is given up, a slow one is not.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_REDIRECTS: u32 = 5;
/// Attempts at a small request before an error is believed.
const ATTEMPTS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A repository's list of files is at most this long.
const MAX_LIST_BYTES: u64 = 64 << 20;
const MAX_REASON_CHARS: usize = 300;

/// Speaks to one Hub.
#[derive(Debug)]
pub(super) struct Client {
    endpoint: String,
    token: Option<String>,
    /// Follows redirects.
    follow: Agent,
    /// Returns redirects as they are.
    stay: Agent,
}

/// A revision's commit and files.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// A file to download.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) url: String,
    pub(super) etag: String,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct RevisionJson {
    sha: String,
    #[serde(default)]
    siblings: Vec<SiblingJson>,
}

#[derive(Deserialize)]
struct SiblingJson {
    rfilename: String,
}

/// The pause after the n-th failure (from 0).
pub(super) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE * 2u32.saturating_pow(failures.min(6))
}

/// Whether trying again may help.
pub(super) fn is_passing(error: &IoError) -> bool {
    match error {
        IoError::HubUnreachable { source, .. } => matches!(
            **source,
            ureq::Error::Io(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::ConnectionFailed
                | ureq::Error::Protocol(_)
        ),
        IoError::HubRefused { status, .. } => *status == 429 || *status >= 500,
        _ => false,
    }
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<&str>) -> Result<Self, IoError> {
        let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let Some(host) = host.filter(|h| !h.is_empty() && !h.starts_with('/')) else {
            let kind = "the Hub's address, HF_ENDPOINT (https://…)";
            return Err(IoError::HubName { name: endpoint.to_owned(), kind });
        };
        let is_local = ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local));
        let agent = |redirects: u32| {
            let mut config = Agent::config_builder()
                .http_status_as_error(false)
                .https_only(endpoint.starts_with("https://"))
                .max_redirects(redirects)
                .max_redirects_will_error(redirects > 0)
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .user_agent(concat!("puna/", env!("CARGO_PKG_VERSION")))
                .accept_encoding("identity")
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .timeout_recv_response(Some(READ_TIMEOUT))
                .timeout_per_read(Some(READ_TIMEOUT));
            if is_local {
                config = config.proxy(None);
            }
            config.build().new_agent()
        };
        Ok(Self {
            endpoint: endpoint.to_owned(),
            token: token.map(str::to_owned),
            follow: agent(MAX_REDIRECTS),
            stay: agent(0),
        })
    }

    /// The commit that a revision stands for, and its files.
    pub(super) fn revision(&self, repo: &str, revision: &str) -> Result<Revision, IoError> {
        let revision = names::encode(revision, b"");
        let url = format!("{}/api/models/{repo}/revision/{revision}", self.endpoint);
        let body = retrying(|| {
            let mut response = self.ok(self.send(&self.follow, "GET", &url, None)?, &url)?;
            let mut body = Vec::new();
            let reader = response.body_mut().as_reader();
            reader.take(MAX_LIST_BYTES + 1).read_to_end(&mut body).map_err(broken(&url))?;
            Ok(body)
        })?;
        if body.len() as u64 > MAX_LIST_BYTES {
            let expected = format!("at most {MAX_LIST_BYTES} bytes");
            return Err(answer(&url, "the list of files", expected, "more"));
        }
        let parsed: RevisionJson = serde_json::from_slice(&body).map_err(|error| {
            answer(&url, "the list of files", "JSON with `sha` and `siblings`", error)
        })?;
        if !names::is_commit(&parsed.sha) {
            let got = parsed.sha.chars().take(80).collect::<String>().escape_debug().to_string();
            return Err(answer(&url, "`sha`", "a commit of 40 hexadecimal digits", got));
        }
        let files: Vec<String> = parsed.siblings.into_iter().map(|s| s.rfilename).collect();
        for file in &files {
            names::check_path(file, "a file in a repository")?;
        }
        Ok(Revision { commit: parsed.sha, files })
    }

    /// Hash and size of a file.
    pub(super) fn file(&self, repo: &str, commit: &str, file: &str) -> Result<Source, IoError> {
        let file = names::encode(file, b"/");
        let url = format!("{}/{repo}/resolve/{commit}/{file}", self.endpoint);
        let headers = retrying(|| self.head(&url))?;
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let etag = text("x-linked-etag").or_else(|| text("etag")).unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').to_owned();
        if !names::is_etag(&etag) {
            return Err(answer(&url, "the header ETag", "a hash", etag.escape_debug()));
        }
        let size = text("x-linked-size").or_else(|| text("content-length"));
        let Some(size) = size.and_then(|size| size.parse().ok()) else {
            let got = size.unwrap_or("nothing").escape_debug();
            return Err(answer(&url, "the header Content-Length", "a number of bytes", got));
        };
        if let Some(other) = text("x-repo-commit").filter(|other| *other != commit) {
            let got = other.escape_debug();
            return Err(answer(&url, "the header X-Repo-Commit", commit, got));
        }
        Ok(Source { url, etag, size })
    }

    /// The headers of the Hub's own answer about a file. A redirect that carries them leads to the
    /// contents; others lead to a renamed repository and are followed, on the Hub itself.
    fn head(&self, url: &str) -> Result<HeaderMap, IoError> {
        let mut at = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&self.stay, "HEAD", &at, None)?;
            let headers = response.headers();
            if !response.status().is_redirection() {
                return Ok(self.ok(response, &at)?.headers().clone());
            }
            if headers.contains_key("x-linked-etag") {
                return Ok(headers.clone());
            }
            let target = headers.get("location").and_then(|value| value.to_str().ok());
            let origin = origin(&self.endpoint);
            at = match target {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => {
                    format!("{origin}{path}")
                }
                Some(url) if url.strip_prefix(origin).is_some_and(|r| r.starts_with('/')) => {
                    url.to_owned()
                }
                other => {
                    let got = other.unwrap_or("none").escape_debug();
                    let expected = format!("one on {origin}, or the header X-Linked-ETag");
                    return Err(answer(&at, "the redirect's target", expected, got));
                }
            };
        }
        Err(answer(url, "the redirects", format!("at most {MAX_REDIRECTS}"), "more"))
    }

    /// The contents of a file from a byte on.
    pub(super) fn contents(&self, url: &str, from: u64) -> Result<Response<Body>, IoError> {
        self.send(&self.follow, "GET", url, Some(from))
    }

    /// Sends a request and returns the answer, whatever its status.
    fn send(
        &self,
        agent: &Agent,
        method: &str,
        url: &str,
        from: Option<u64>,
    ) -> Result<Response<Body>, IoError> {
        let unreachable = |source: ureq::Error| IoError::HubUnreachable {
            url: url.to_owned(),
            source: Box::new(source),
        };
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(from) = from.filter(|from| *from > 0) {
            request = request.header("range", format!("bytes={from}-"));
        }
        let request = request.body(SendBody::none()).map_err(|e| unreachable(e.into()))?;
        agent.run(request).map_err(unreachable)
    }

    /// Turns a status that is no success into an error that says what to do.
    pub(super) fn ok(
        &self,
        response: Response<Body>,
        url: &str,
    ) -> Result<Response<Body>, IoError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let token = match self.token {
            Some(_) => "the token of HF_TOKEN has no access",
            None => "set HF_TOKEN to a token that has access",
        };
        let mut reason = match (status.as_u16(), code) {
            (_, "GatedRepo") => format!("its licence must be accepted on the Hub; {token}"),
            (404, "RevisionNotFound") => "no such revision".to_owned(),
            (404, "EntryNotFound") => "no such file".to_owned(),
            (401 | 403, _) => format!("private, gated or no such repository; {token}"),
            (404, _) => "no such repository, revision or file".to_owned(),
            (429, _) => "too many requests; try again later".to_owned(),
            (500.., _) => "the server has a problem; try again later".to_owned(),
            _ => "not what was asked for".to_owned(),
        };
        if let Some(message) = header("x-error-message") {
            let text: String = message.chars().take(MAX_REASON_CHARS).collect();
            reason.push_str(&format!(" ({})", text.escape_debug()));
        }
        Err(IoError::HubRefused { url: url.to_owned(), status: status.as_u16(), reason })
    }
}

/// `https://host:port` of an address.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    url[start..].find('/').map_or(url, |slash| &url[..start + slash])
}

fn retrying<T>(mut request: impl FnMut() -> Result<T, IoError>) -> Result<T, IoError> {
    let mut failures = 0;
    loop {
        match request() {
            Err(error) if is_passing(&error) && failures + 1 < ATTEMPTS => {
                sleep(pause(failures));
                failures += 1;
            }
            result => return result,
        }
    }
}

/// An error for a connection that broke while a body was read.
pub(super) fn broken(url: &str) -> impl FnOnce(std::io::Error) -> IoError {
    let url = url.to_owned();
    |error| IoError::HubUnreachable { url, source: Box::new(ureq::Error::Io(error)) }
}

/// An [`IoError::HubAnswer`] from anything printable.
pub(super) fn answer(
    url: &str,
    at: &'static str,
    expected: impl ToString,
    got: impl ToString,
) -> IoError {
    let (expected, got) = (expected.to_string(), got.to_string());
    IoError::HubAnswer { url: url.to_owned(), at, expected, got }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("http://127.0.0.1:8080/api/x"), "http://127.0.0.1:8080");
        assert_eq!(origin("https://huggingface.co"), "https://huggingface.co");
    }

    #[test]
    fn an_endpoint_without_scheme_is_refused() {
        for endpoint in ["huggingface.co", "ftp://x", "https://", "http:///x", ""] {
            let error = Client::new(endpoint, None).expect_err(endpoint).to_string();
            assert!(error.contains("HF_ENDPOINT"), "{error}");
        }
    }
}
