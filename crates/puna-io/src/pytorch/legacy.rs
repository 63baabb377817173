//! The format of torch before 1.6: five pickles, then the storages.
//!
//! magic number, protocol version, system info, state dict, list of storage keys; then for each
//! key the number of elements as an i64 and the elements. Source: `torch/serialization.py`
//! (`_legacy_save`, `_legacy_load`).

use std::collections::HashMap;
use std::path::Path;

use super::{Contents, state_dict};
use crate::pickle::{Object, Unpickled, Value, unpickle};
use crate::{IoError, TensorBytes};

/// 0x1950a86a20f9469cfc6c, little endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// Reads the pickles and finds the storages behind them.
pub(super) fn read(path: &Path, file: &TensorBytes) -> Result<Contents, IoError> {
    let mut at = 0;
    let mut next = || -> Result<Unpickled<'_>, IoError> {
        let pickle = unpickle(path, &file[at..])?;
        at += pickle.consumed;
        Ok(pickle)
    };
    let magic = next()?;
    if !matches!(magic.object(magic.top), Some(Object::Long(bytes)) if *bytes == MAGIC) {
        return Err(IoError::invalid(path, "format", "torch's magic number", "another pickle"));
    }
    let version = next()?;
    if version.top != Value::Int(PROTOCOL) {
        return Err(IoError::invalid(path, "protocol version", PROTOCOL, "another"));
    }
    check_byte_order(path, &next()?)?;
    let dict = next()?;
    let keys = next()?;
    let named = state_dict::read(path, &dict)?;
    let storages = storages(path, file, at, &keys, &dict)?;
    Ok((named, storages))
}

fn check_byte_order(path: &Path, info: &Unpickled<'_>) -> Result<(), IoError> {
    let Some(Object::Dict(items)) = info.object(info.top) else {
        return Err(IoError::invalid(path, "system info", "a dict", "something else"));
    };
    let big = items
        .iter()
        .any(|(k, v)| info.str(*k) == Some("little_endian") && *v == Value::Bool(false));
    if big {
        return Err(IoError::Unsupported {
            path: path.to_path_buf(),
            at: "system info".to_owned(),
            feature: "big-endian byte order".to_owned(),
        });
    }
    Ok(())
}

/// Walks the storages after the pickles, in the order of the key list.
fn storages(
    path: &Path,
    file: &TensorBytes,
    mut at: usize,
    keys: &Unpickled<'_>,
    dict: &Unpickled<'_>,
) -> Result<HashMap<String, TensorBytes>, IoError> {
    let mut declared = HashMap::new();
    for object in &dict.objects {
        if let Object::Storage(s) = object {
            let size = s.element.size().ok_or_else(|| IoError::Unsupported {
                path: path.to_path_buf(),
                at: format!("storage `{}`", s.key),
                feature: format!("the type {:?}", s.element),
            })?;
            if declared.insert(s.key, (s.len, size)).is_some_and(|d| d != (s.len, size)) {
                let at = format!("storage `{}`", s.key);
                return Err(IoError::invalid(path, at, "one type and length", "two"));
            }
        }
    }
    let Some(Object::List(list)) = keys.object(keys.top) else {
        return Err(IoError::invalid(path, "storage keys", "a list", "something else"));
    };
    let mut storages = HashMap::new();
    for &key in list {
        let key = keys
            .str(key)
            .ok_or_else(|| IoError::invalid(path, "storage keys", "strings", "something else"))?;
        let name = || format!("storage `{key}`");
        let &(len, size) = declared.get(key).ok_or_else(|| {
            IoError::invalid(path, name(), "a key of the state dict", "one that no tensor uses")
        })?;
        let head = file.get(at..).and_then(|rest| rest.first_chunk::<8>());
        if head.map(|h| u64::from_le_bytes(*h)) != Some(len as u64) {
            let got = head
                .map_or("the end of the file".to_owned(), |h| u64::from_le_bytes(*h).to_string());
            return Err(IoError::invalid(path, name(), format!("the length {len}"), got));
        }
        at += 8;
        let bytes = len
            .checked_mul(size)
            .and_then(|n| at.checked_add(n))
            .and_then(|end| file.slice(at..end))
            .ok_or_else(|| {
                let expected = format!("{len} elements of {size} bytes");
                IoError::invalid(path, name(), expected, format!("{} bytes", file.len() - at))
            })?;
        at += bytes.len();
        if storages.insert(key.to_owned(), bytes).is_some() {
            return Err(IoError::invalid(path, name(), "one entry", "two"));
        }
    }
    Ok(storages)
}
