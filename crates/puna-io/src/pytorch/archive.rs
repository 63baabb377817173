//! The zip archive of torch 1.6 and later: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`.
//!
//! torch stores entries uncompressed, so that a storage is a range of the file. Source:
//! `torch/serialization.py` (`_save`, `_load`) and `caffe2/serialize/inline_container.cc`.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::{Contents, state_dict};
use crate::pickle::{MAX_PICKLE_BYTES, unpickle};
use crate::{IoError, TensorBytes};

const PICKLE: &str = "data.pkl";

/// Reads the directory and the pickle of an archive.
pub(super) fn read(path: &Path, file: &TensorBytes) -> Result<Contents, IoError> {
    let entries = directory(path, file)?;
    let prefix = entries
        .keys()
        .filter_map(|name| name.strip_suffix(PICKLE))
        .find(|prefix| prefix.ends_with('/') && prefix.matches('/').count() == 1)
        .ok_or_else(|| {
            IoError::invalid(path, "archive", "an entry NAME/data.pkl", "none; TorchScript?")
        })?
        .to_owned();
    let slice = |name: &str| -> Option<TensorBytes> {
        file.slice(entries.get(&format!("{prefix}{name}"))?.clone())
    };
    if let Some(order) = slice("byteorder")
        && &*order != b"little"
    {
        return Err(IoError::Unsupported {
            path: path.to_path_buf(),
            at: "byteorder".to_owned(),
            feature: format!("the byte order `{}`", order.escape_ascii()),
        });
    }
    let pickle = slice(PICKLE).unwrap_or_else(|| TensorBytes::from_vec(Vec::new()));
    if pickle.len() > MAX_PICKLE_BYTES {
        return Err(IoError::Limit {
            path: path.to_path_buf(),
            at: "the pickle's length".to_owned(),
            limit: MAX_PICKLE_BYTES as u64,
            got: pickle.len() as u64,
        });
    }
    let pickle = pickle.to_vec();
    let named = state_dict::read(path, &unpickle(path, &pickle)?)?;
    let mut storages = HashMap::new();
    for (_, view) in &named {
        if let Some(bytes) = slice(&format!("data/{}", view.key)) {
            storages.insert(view.key.clone(), bytes);
        }
    }
    Ok((named, storages))
}

/// The byte range of every entry's contents.
fn directory(path: &Path, file: &TensorBytes) -> Result<HashMap<String, Range<usize>>, IoError> {
    let broken = |e: zip::result::ZipError| IoError::invalid(path, "archive", "a zip archive", e);
    let mut archive = ZipArchive::new(Cursor::new(&**file)).map_err(broken)?;
    let mut entries = HashMap::with_capacity(archive.len());
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let unsupported = |feature: &str| IoError::Unsupported {
            path: path.to_path_buf(),
            at: format!("archive entry `{name}`"),
            feature: feature.to_owned(),
        };
        if entry.encrypted() {
            return Err(unsupported("encryption"));
        }
        if entry.compression() != CompressionMethod::Stored {
            return Err(unsupported("compression"));
        }
        let range = entry.data_start().and_then(|start| {
            let end = start.checked_add(entry.size())?;
            Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
        });
        match range {
            Some(range) if range.end <= file.len() && entry.size() == entry.compressed_size() => {
                entries.insert(name, range);
            }
            _ => {
                let expected = format!("contents inside the {} bytes of the file", file.len());
                let got = format!("{} bytes at {:?}", entry.size(), entry.data_start());
                return Err(IoError::invalid(path, format!("entry `{name}`"), expected, got));
            }
        }
    }
    Ok(entries)
}
