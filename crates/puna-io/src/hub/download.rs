//! Downloads a blob, resuming what is there already.
//!
//! Contents are hashed on the way: large files are named by their SHA-256, so a resumed download
//! that joined two different files, or a damaged one, is noticed. Small files are named by git's
//! hash or a server's own etag, and are checked by size.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::thread::sleep;

use ring::digest::{Context, SHA256};
use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::cache::{RepoCache, create_parent};
use super::client::{Client, Source, answer, broken, is_passing, pause};
use super::names;
use crate::IoError;

const BUFFER_BYTES: usize = 256 << 10;
/// Failures in a row, none of which brought a byte, before giving up.
const MAX_FAILURES: u32 = 3;
/// Failures in all: a server that gives a byte per connection is given up too.
const MAX_ATTEMPTS: u32 = 100;

/// Brings a blob into the cache, if it is not there; `progress` is told the bytes so far.
pub(super) fn to_blob(
    client: &Client,
    repo: &RepoCache,
    source: &Source,
    progress: &mut dyn FnMut(u64),
) -> Result<(), IoError> {
    let (blob, incomplete) = (repo.blob(&source.etag), repo.incomplete(&source.etag));
    let _lock = repo.lock(&source.etag)?; // released at the end
    if fs::metadata(&blob).is_ok_and(|meta| meta.len() == source.size) {
        progress(source.size);
        return Ok(());
    }
    create_parent(&incomplete)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&incomplete)
        .map_err(IoError::os(&incomplete, "create"))?;
    let mut download = Download { source, file, done: 0, hash: Context::new(&SHA256) };
    let fails = |action| IoError::os(&incomplete, action);
    download.take_up().map_err(fails("read"))?;
    progress(download.done);
    let (mut failures, mut attempts) = (0, 0);
    while download.done < source.size {
        let before = download.done;
        let response = client.contents(&source.url, download.done);
        let result =
            response.and_then(|response| download.receive(client, response, progress, &incomplete));
        let Err(error) = result else { break };
        failures = if download.done > before { 0 } else { failures + 1 };
        attempts += 1;
        if !is_passing(&error) || failures > MAX_FAILURES || attempts > MAX_ATTEMPTS {
            return Err(error);
        }
        sleep(pause(failures));
    }
    download.file.sync_all().map_err(fails("flush"))?;
    if let Err(error) = download.check_hash() {
        // Nothing of it can be trusted; the next attempt starts anew.
        fs::remove_file(&incomplete).map_err(fails("remove"))?;
        return Err(error);
    }
    fs::rename(&incomplete, &blob).map_err(IoError::os(&blob, "rename"))
}

/// A blob on its way.
struct Download<'a> {
    source: &'a Source,
    file: File,
    /// Bytes in the file, and in the hash.
    done: u64,
    hash: Context,
}

impl Download<'_> {
    /// Takes up what an earlier attempt has left.
    fn take_up(&mut self) -> std::io::Result<()> {
        if self.file.metadata()?.len() > self.source.size {
            return self.start_anew();
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = self.file.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.hash.update(&buffer[..count]);
            self.done += count as u64;
        }
    }

    fn start_anew(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.done = 0;
        self.hash = Context::new(&SHA256);
        Ok(())
    }

    /// Appends the body of an answer; all of the blob is there if it succeeds.
    fn receive(
        &mut self,
        client: &Client,
        response: Response<Body>,
        progress: &mut dyn FnMut(u64),
        path: &Path,
    ) -> Result<(), IoError> {
        let url = &self.source.url;
        let fails = |action| IoError::os(path, action);
        match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE if self.done > 0 => {
                // Asked again from the start, as after a cut connection.
                self.start_anew().map_err(fails("truncate"))?;
                return Err(broken(url)(std::io::ErrorKind::UnexpectedEof.into()));
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get("content-range").and_then(|r| r.to_str().ok());
                let expected = format!("bytes {}-", self.done);
                if !range.is_some_and(|range| range.starts_with(&expected)) {
                    let got = range.unwrap_or("none").escape_debug();
                    return Err(answer(url, "the header Content-Range", expected, got));
                }
            }
            // The server ignores ranges: this is the whole.
            StatusCode::OK if self.done > 0 => self.start_anew().map_err(fails("truncate"))?,
            StatusCode::OK => {}
            _ => {
                client.ok(response, url)?;
                return Err(answer(url, "the status", "200 or 206", "another success"));
            }
        }
        let mut body = response.into_body();
        let mut reader = body.as_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = reader.read(&mut buffer).map_err(broken(url))?;
            if count == 0 {
                break;
            }
            let end = self.done + count as u64;
            if end > self.source.size {
                let expected = format!("{} bytes", self.source.size);
                return Err(answer(url, "the contents", expected, "more"));
            }
            self.file.write_all(&buffer[..count]).map_err(fails("write"))?;
            self.hash.update(&buffer[..count]);
            self.done = end;
            progress(self.done);
        }
        if self.done < self.source.size {
            return Err(broken(url)(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    fn check_hash(&self) -> Result<(), IoError> {
        if !names::is_sha256(&self.source.etag) {
            return Ok(());
        }
        let digest = self.hash.clone().finish();
        let got: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if got == self.source.etag {
            return Ok(());
        }
        let expected = format!("SHA-256 {}", self.source.etag);
        Err(answer(&self.source.url, "the contents", expected, got))
    }
}
