//! Parquet: one column of strings. Only its pages are read, through the record reader, which needs
//! no Arrow; a panic of the library on a malformed file becomes an error.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::Sink;
use crate::DataError;
use crate::error::{At, Problem, Within};
use crate::prepare::document::{Body, RawDocument, list, utf8};

pub(super) fn read(
    path: &Arc<Path>,
    file: File,
    key: &str,
    sink: Sink<'_>,
) -> Result<(), DataError> {
    match catch_unwind(AssertUnwindSafe(|| rows(path, file, key, sink))) {
        Ok(result) => result,
        Err(_) => Err(damaged(path, At::File)("its reader failed (internal error)".to_owned())),
    }
}

fn rows(path: &Arc<Path>, file: File, key: &str, sink: Sink<'_>) -> Result<(), DataError> {
    let whole = |error: ParquetError| damaged(path, At::File)(error.to_string());
    let reader = SerializedFileReader::new(file).map_err(whole)?;
    let schema = reader.metadata().file_metadata().schema();
    let Some(column) = schema.get_fields().iter().find(|field| field.name() == key) else {
        let found = list(schema.get_fields().iter().map(|field| field.name()));
        let problem = Problem::MissingKey { key: key.to_owned(), found };
        return Err(DataError::document(path, At::File, problem));
    };
    let builder = Type::group_type_builder(schema.name()).with_fields(vec![column.clone()]);
    let projection = builder.build().map_err(whole)?;
    let rows = reader.get_row_iter(Some(projection)).map_err(whole)?;
    for (number, row) in (1..).zip(rows) {
        let at = At::Row(number);
        let row = row.map_err(|error| damaged(path, at)(error.to_string()))?;
        let text = match row.into_columns().pop() {
            Some((_, Field::Str(text))) => Ok(text),
            Some((_, Field::Bytes(bytes))) => utf8(bytes.data().to_vec(), 0, Within::Field),
            Some((_, Field::Null)) | None => {
                Err(Problem::Shape { expected: "a string", got: "null" })
            }
            Some(_) => {
                let (expected, got) = ("a column of strings", "another type");
                let problem = Problem::Shape { expected, got };
                return Err(DataError::document(path, at, problem));
            }
        };
        let document = match text {
            Ok(text) => Ok(RawDocument { path: path.clone(), at, body: Body::Ready(text) }),
            Err(problem) => Err(DataError::document(path, at, problem)),
        };
        if sink(document).is_break() {
            break;
        }
    }
    Ok(())
}

fn damaged(path: &Path, at: At) -> impl FnOnce(String) -> DataError {
    move |reason| DataError::document(path, at, Problem::Table { format: "Parquet", reason })
}
