//! Reads files into documents, one file after the other, never more than a document at a time.
//!
//! Readers push documents into a sink instead of being iterators: a JSON array and a Parquet file
//! are then plain loops. A sink that breaks ends the reading without an error.

mod csv;
mod json;
mod limit;
mod parquet;
mod text;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use puna_io::IoError;

use super::document::{Body, RawDocument};
use super::inputs::{Compression, Format, InputFile};
use crate::DataError;
use crate::error::{At, Problem};

/// The most one document, line or table row may have: what bounds memory.
pub(crate) const MOST_DOCUMENT_BYTES: u64 = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// How files are read.
#[derive(Debug, Clone)]
pub struct ReadSettings {
    /// Key or column of the text.
    pub text_key: String,
    /// What separates documents in a text file.
    pub separator: Option<String>,
    /// Longer text files are cut, into pieces of at most so many bytes (at least 64).
    pub piece_bytes: usize,
}

/// Takes a document, or one that is bad while the file can be read on.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(Result<RawDocument, DataError>) -> ControlFlow<()>;

/// Reads a file; `done` counts the bytes taken from the disk.
///
/// # Errors
/// The file cannot be read on from here. Documents before it have reached the sink.
pub(crate) fn read_file(
    file: &InputFile,
    settings: &ReadSettings,
    done: &Arc<AtomicU64>,
    sink: Sink<'_>,
) -> Result<(), DataError> {
    let path = &file.path;
    let before = done.load(Ordering::Relaxed);
    let mut documents = 0u64;
    let mut stopped = false;
    let mut counting = |document| {
        documents += 1;
        let flow = sink(document);
        stopped = flow.is_break();
        flow
    };
    if file.format == Format::Parquet {
        parquet::read(path, on_disk(file)?, &settings.text_key, &mut counting)?;
    } else {
        let disk = File::open(path).map_err(IoError::os(path, "open"))?;
        let stream = decompressed(Counted { inner: disk, done: done.clone() }, file)?;
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, stream);
        skip_bom(&mut reader).map_err(unreadable(path, At::File))?;
        match file.format {
            Format::Text => text::read(path, reader, settings, &mut counting)?,
            Format::Html => page(path, reader, &mut counting)?,
            Format::Json => json::read(path, reader, &settings.text_key, &mut counting)?,
            Format::Csv { delimiter } => {
                csv::read(path, reader, delimiter, &settings.text_key, &mut counting)?;
            }
            Format::JsonLines | Format::Parquet => lines(path, reader, &mut counting)?,
        }
    }
    if documents == 0 && !stopped {
        return Err(DataError::document(path, At::File, Problem::Empty));
    }
    done.store(before + file.bytes, Ordering::Relaxed);
    Ok(())
}

/// An HTML page is one document.
fn page(path: &Arc<Path>, reader: impl Read, sink: Sink<'_>) -> Result<(), DataError> {
    let mut bytes = Vec::new();
    let mut limited = reader.take(MOST_DOCUMENT_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(unreadable(path, At::File))?;
    if bytes.len() as u64 > MOST_DOCUMENT_BYTES {
        return Err(too_long(path, At::File));
    }
    if !bytes.is_empty() {
        let _ = sink(Ok(RawDocument { path: path.clone(), at: At::File, body: Body::Html(bytes) }));
    }
    Ok(())
}

/// Each line that is not blank is a document.
fn lines(path: &Arc<Path>, mut reader: impl BufRead, sink: Sink<'_>) -> Result<(), DataError> {
    for number in 1.. {
        let at = At::Line(number);
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MOST_DOCUMENT_BYTES + 1);
        let count = limited.read_until(b'\n', &mut line).map_err(unreadable(path, at))?;
        if count == 0 {
            break;
        }
        if count as u64 > MOST_DOCUMENT_BYTES {
            return Err(too_long(path, at));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let body = Body::JsonLine(line);
        if sink(Ok(RawDocument { path: path.clone(), at, body })).is_break() {
            break;
        }
    }
    Ok(())
}

fn skip_bom(reader: &mut impl BufRead) -> std::io::Result<()> {
    // One read is enough: no source here gives fewer than three bytes unless it ends.
    if reader.fill_buf()?.starts_with(BOM) {
        reader.consume(BOM.len());
    }
    Ok(())
}

fn unreadable(path: &Path, at: At) -> impl Fn(std::io::Error) -> DataError {
    move |error| DataError::document(path, at, Problem::Read { reason: error.to_string() })
}

fn too_long(path: &Path, at: At) -> DataError {
    DataError::document(path, at, Problem::TooLong { limit: MOST_DOCUMENT_BYTES })
}

fn decompressed<'a>(
    disk: impl Read + Send + 'a,
    file: &InputFile,
) -> Result<Box<dyn Read + Send + 'a>, DataError> {
    Ok(match file.compression {
        Compression::None => Box::new(disk),
        Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(disk)),
        Compression::Zstd => {
            let decoder = zstd::Decoder::new(disk).map_err(unreadable(&file.path, At::File))?;
            Box::new(decoder)
        }
    })
}

/// A file that can be sought in: the file itself, or what it decompresses to, without a name.
fn on_disk(file: &InputFile) -> Result<File, DataError> {
    let path = &file.path;
    let disk = File::open(path).map_err(IoError::os(path, "open"))?;
    if file.compression == Compression::None {
        return Ok(disk);
    }
    let fails = |error| unreadable(path, At::File)(error);
    let mut whole = tempfile::tempfile().map_err(fails)?;
    std::io::copy(&mut decompressed(disk, file)?, &mut whole).map_err(fails)?;
    whole.seek(SeekFrom::Start(0)).map_err(fails)?;
    Ok(whole)
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    done: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
