//! A server on the loopback address that speaks as much of the Hub's protocol as a download needs,
//! and misbehaves on demand.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Files above this size are "LFS": named by SHA-256 and served by the CDN.
const LFS_BYTES: usize = 500;

/// What happens to the next request for contents.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// An error status instead.
    Status(u16),
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// Contents by name.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Names that are listed besides.
    pub(crate) listed: Vec<String>,
    /// Instead of [`COMMIT`].
    pub(crate) commit: Option<String>,
    /// Instead of the hash.
    pub(crate) etag: Option<String>,
    /// Instead of the size.
    pub(crate) size: Option<String>,
    /// The token that is asked for.
    pub(crate) token: Option<String>,
    /// Faults of the next requests for contents.
    pub(crate) faults: VecDeque<Fault>,
    pub(crate) ignores_ranges: bool,
    /// `METHOD PATH`, with ` RANGE` and ` +token` where sent.
    pub(crate) log: Vec<String>,
}

pub(crate) struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    range: Option<usize>,
    token: Option<String>,
}

impl Server {
    /// Serves `org/name` with these files.
    pub(crate) fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let files = files.iter().map(|(n, c)| ((*n).to_owned(), c.clone())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let shared = Arc::clone(&state);
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || answer(stream, &shared, port));
            }
        });
        Self { port, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// The requests since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The name of a file's blob.
pub(crate) fn etag_of(contents: &[u8]) -> String {
    let algorithm = if contents.len() > LFS_BYTES { &SHA256 } else { &SHA1_FOR_LEGACY_USE_ONLY };
    hex(digest(algorithm, contents).as_ref())
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut request = Request { method, path, range: None, token: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let from = value.trim().strip_prefix("bytes=")?.strip_suffix('-')?;
                request.range = Some(from.parse().ok()?);
            }
            "authorization" => {
                request.token = Some(value.trim().strip_prefix("Bearer ")?.to_owned());
            }
            _ => {}
        }
    }
    Some(request)
}

fn answer(mut stream: TcpStream, shared: &Mutex<State>, port: u16) {
    let Some(request) = read_request(&stream) else { return };
    let mut state = shared.lock().expect("no panic");
    let range = request.range.map(|from| format!(" {from}-")).unwrap_or_default();
    let token = if request.token.is_some() { " +token" } else { "" };
    state.log.push(format!("{} {}{range}{token}", request.method, request.path));
    let reply = reply(&request, &mut state, port);
    drop(state);
    // The client may have gone; that is what some tests do.
    let _ = stream.write_all(&reply);
}

fn message(status: &str, headers: &[(&str, String)], body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    [out.as_bytes(), b"\r\n", body].concat()
}

fn not_found(code: &str) -> Vec<u8> {
    message("404 Not Found", &[("X-Error-Code", code.to_owned())], b"")
}

fn reply(request: &Request, state: &mut State, port: u16) -> Vec<u8> {
    if let Some(name) = request.path.strip_prefix("/cdn/") {
        let name = name.replace("%20", " ");
        let contents = state.files.get(&name).cloned();
        return contents.map_or_else(|| not_found(""), |c| contents_of(&c, request, state));
    }
    if let Some(rest) = request.path.find("old/name").map(|at| &request.path[at + 3..]) {
        let api = if request.path.starts_with("/api/models/") { "/api/models" } else { "" };
        let location = format!("{api}/org{rest}");
        return message("307 Temporary Redirect", &[("Location", location)], b"");
    }
    if state.token.is_some() && state.token != request.token {
        return message("401 Unauthorized", &[("X-Error-Code", "GatedRepo".to_owned())], b"");
    }
    let commit = state.commit.clone().unwrap_or_else(|| COMMIT.to_owned());
    if let Some(revision) = request.path.strip_prefix("/api/models/org/name/revision/") {
        if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
            return not_found("RevisionNotFound");
        }
        let names = state.files.keys().chain(&state.listed);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        let json = serde_json::json!({ "sha": commit, "siblings": siblings, "private": false });
        return message("200 OK", &[], json.to_string().as_bytes());
    }
    let path = format!("/org/name/resolve/{commit}/");
    let Some(name) = request.path.strip_prefix(&path).map(|n| n.replace("%20", " ")) else {
        return not_found("RepoNotFound");
    };
    let Some(contents) = state.files.get(&name).cloned() else { return not_found("EntryNotFound") };
    let etag = state.etag.clone().unwrap_or_else(|| etag_of(&contents));
    let size = state.size.clone().unwrap_or_else(|| contents.len().to_string());
    let mut headers = vec![("X-Repo-Commit", commit)];
    if contents.len() > LFS_BYTES {
        // Another host, as the Hub's CDN is.
        let location = format!("http://localhost:{port}/cdn/{}", name.replace(' ', "%20"));
        headers.extend([
            ("Location", location),
            ("X-Linked-Etag", format!("\"{etag}\"")),
            ("X-Linked-Size", size),
            ("ETag", "\"of-the-redirect\"".to_owned()),
        ]);
        return message("302 Found", &headers, b"Found. Redirecting");
    }
    headers.push(("ETag", format!("W/\"{etag}\"")));
    if request.method == "HEAD" {
        headers.push(("Content-Length", size));
        return message("200 OK", &headers, b"");
    }
    contents_of(&contents, request, state)
}

/// The contents, or the next fault.
fn contents_of(contents: &[u8], request: &Request, state: &mut State) -> Vec<u8> {
    let from = if state.ignores_ranges { 0 } else { request.range.unwrap_or(0) };
    if from > contents.len() {
        return message("416 Range Not Satisfiable", &[], b"");
    }
    let mut body = &contents[from..];
    let mut headers = vec![("Content-Length", body.len().to_string())];
    match state.faults.pop_front() {
        Some(Fault::Status(status)) => return message(&format!("{status} Fault"), &[], b""),
        Some(Fault::CutAfter(bytes)) => body = &body[..bytes.min(body.len())],
        None => {}
    }
    if from == 0 {
        return message("200 OK", &headers, body);
    }
    let range = format!("bytes {from}-{}/{}", contents.len() - 1, contents.len());
    headers.push(("Content-Range", range));
    message("206 Partial Content", &headers, body)
}
