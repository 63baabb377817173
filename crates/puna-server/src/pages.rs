//! The web page and the documentation's page, from inside the binary.
//!
//! Files never come from the disk: a path is a key of what was embedded when the program was built,
//! so no path of a request can reach the file system.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, REFERRER_POLICY, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use rust_embed::RustEmbed;

/// What `npm run build` writes in ui/.
#[derive(RustEmbed)]
#[folder = "../../ui/dist"]
struct Ui;

/// Scripts, styles and requests from this server only: a page that was tampered with, or a model's
/// output shown in it, loads nothing from elsewhere.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; worker-src 'self' blob:; \
    object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Files below this are not worth compressing.
const SMALL_BYTES: usize = 1024;

/// Compressed files, made when first asked for.
static COMPRESSED: Mutex<Option<HashMap<String, Bytes>>> = Mutex::new(None);

/// The web page.
pub(crate) async fn index(request: Request) -> Response {
    embedded("index.html", request.headers())
        .unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

/// A file of the web page; `None` where there is none of this path.
pub(crate) fn file(request: &Request) -> Option<Response> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return None;
    }
    embedded(request.uri().path().trim_start_matches('/'), request.headers())
}

/// The page that shows the API's description; everything it needs is in the binary.
pub(crate) async fn docs(request: Request) -> Response {
    page("docs.html", include_bytes!("pages/docs.html"), request.headers())
}

/// Its script.
pub(crate) async fn docs_script(request: Request) -> Response {
    page("docs.js", include_bytes!("pages/docs.js"), request.headers())
}

/// Its style.
pub(crate) async fn docs_style(request: Request) -> Response {
    page("docs.css", include_bytes!("pages/docs.css"), request.headers())
}

fn embedded(path: &str, headers: &HeaderMap) -> Option<Response> {
    let file = Ui::get(path)?;
    let tag = tag(&file.metadata.sha256_hash());
    let data = match file.data {
        std::borrow::Cow::Borrowed(data) => Bytes::from_static(data),
        std::borrow::Cow::Owned(data) => Bytes::from(data),
    };
    Some(answer(path, data, &tag, headers))
}

fn page(name: &str, bytes: &'static [u8], headers: &HeaderMap) -> Response {
    use sha2::Digest;
    let tag = tag(&sha2::Sha256::digest(bytes));
    answer(name, Bytes::from_static(bytes), &tag, headers)
}

fn tag(digest: &[u8]) -> String {
    let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn answer(path: &str, data: Bytes, tag: &str, headers: &HeaderMap) -> Response {
    let mut response = if has(headers, IF_NONE_MATCH, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let squeezable = data.len() >= SMALL_BYTES && is_text(path);
        match squeezable && has(headers, ACCEPT_ENCODING, "gzip") {
            true => {
                let mut response = gzip(path, &data).into_response();
                response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                response
            }
            false => data.into_response(),
        }
    };
    let to = response.headers_mut();
    to.insert(CONTENT_TYPE, HeaderValue::from_static(kind(path)));
    to.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    to.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    to.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    // Bundlers put a hash into the names of what lies in assets/.
    let caching = match path.starts_with("assets/") {
        true => "public, max-age=31536000, immutable",
        false => "no-cache",
    };
    to.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        to.insert(ETAG, tag);
    }
    response
}

fn has(headers: &HeaderMap, name: http::HeaderName, word: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .any(|item| item.trim().trim_start_matches("W/").split(';').next() == Some(word))
}

fn gzip(path: &str, data: &Bytes) -> Bytes {
    let mut compressed = COMPRESSED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = compressed.get_or_insert_default();
    if let Some(bytes) = known.get(path) {
        return bytes.clone();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let bytes = encoder.write_all(data).and_then(|()| encoder.finish());
    let bytes = bytes.map_or_else(|_| data.clone(), Bytes::from);
    known.insert(path.to_owned(), bytes.clone());
    bytes
}

fn is_text(path: &str) -> bool {
    let extension = path.rsplit('.').next().unwrap_or("");
    ["html", "js", "mjs", "css", "svg", "json", "webmanifest", "txt", "map", "wasm"]
        .contains(&extension)
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or("") {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
