//! CSV and TSV with a header line; the text is one column.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};

use super::limit::Limited;
use super::{Sink, too_long};
use crate::DataError;
use crate::error::{At, Problem, Within};
use crate::prepare::document::{Body, RawDocument, list, utf8};

pub(super) fn read(
    path: &Arc<Path>,
    reader: impl Read,
    delimiter: u8,
    key: &str,
    sink: Sink<'_>,
) -> Result<(), DataError> {
    let (limited, allowance) = Limited::new(reader);
    let mut table = ReaderBuilder::new().delimiter(delimiter).from_reader(limited);
    let fails = |error: &csv::Error, line: u64| {
        let line = error.position().map_or(line, csv::Position::line);
        if allowance.is_spent() {
            return too_long(path, At::Line(line));
        }
        let problem = match error.kind() {
            ErrorKind::Io(e) => Problem::Read { reason: e.to_string() },
            ErrorKind::UnequalLengths { expected_len, len, .. } => {
                let reason = format!("{len} fields, but the header has {expected_len}");
                Problem::Table { format: "CSV", reason }
            }
            _ => Problem::Table { format: "CSV", reason: error.to_string() },
        };
        DataError::document(path, At::Line(line), problem)
    };
    let header = table.byte_headers().map_err(|e| fails(&e, 1))?.clone();
    if header.is_empty() {
        return Ok(());
    }
    let Some(column) = header.iter().position(|name| name == key.as_bytes()) else {
        let names: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
        let found = list(names.iter().map(AsRef::as_ref));
        let problem = Problem::MissingKey { key: key.to_owned(), found };
        return Err(DataError::document(path, At::Line(1), problem));
    };
    let mut record = ByteRecord::new();
    loop {
        allowance.renew();
        let line = table.position().line();
        match table.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                let bad = fails(&error, line);
                if !matches!(error.kind(), ErrorKind::UnequalLengths { .. }) {
                    return Err(bad);
                }
                // A row of another length is bad by itself; the next one can be read.
                if sink(Err(bad)).is_break() {
                    return Ok(());
                }
                continue;
            }
        }
        let at = At::Line(record.position().map_or(line, csv::Position::line));
        let field = record.get(column).unwrap_or_default().to_vec();
        let document = match utf8(field, 0, Within::Field) {
            Ok(text) => Ok(RawDocument { path: path.clone(), at, body: Body::Ready(text) }),
            Err(problem) => Err(DataError::document(path, at, problem)),
        };
        if sink(document).is_break() {
            return Ok(());
        }
    }
}
