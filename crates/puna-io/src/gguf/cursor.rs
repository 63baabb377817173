//! Reads the primitive values of a GGUF header from bytes, never past their end.
//!
//! Every length is compared with the bytes that are left before anything is allocated, so a
//! header can make the reader allocate a small multiple of the file's size at most. Each length is
//! read once: the file is mapped, and may change under us.

use std::path::Path;

use super::value::{ARRAY_TYPE, Array, Value};
use crate::IoError;

/// What is wrong with the bytes at the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// More bytes are asked for than are left.
    Truncated { wanted: u64, left: usize },
    /// A string is not UTF-8.
    NotUtf8,
    /// A boolean is neither 0 nor 1.
    Bool(u8),
    /// A number that stands for no value type.
    ValueType(u32),
    /// An array of arrays.
    NestedArray,
}

impl Flaw {
    /// The error for a flaw in some part of a file.
    pub(super) fn error(&self, path: &Path, at: impl ToString) -> IoError {
        let (expected, got) = match self {
            Self::Truncated { wanted, left } => {
                (format!("{wanted} more bytes"), format!("{left} until the end of the file"))
            }
            Self::NotUtf8 => ("text in UTF-8".into(), "other bytes".into()),
            Self::Bool(byte) => ("a boolean, 0 or 1".into(), byte.to_string()),
            Self::ValueType(id) => ("a value type, 0 to 12".into(), id.to_string()),
            Self::NestedArray => {
                return IoError::Unsupported {
                    path: path.to_path_buf(),
                    at: at.to_string(),
                    feature: "an array of arrays".to_owned(),
                };
            }
        };
        IoError::invalid(path, at, expected, got)
    }
}

/// A position in the bytes of a file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `wanted` bytes.
    pub(super) fn take(&mut self, wanted: u64) -> Result<&'a [u8], Flaw> {
        let truncated = Flaw::Truncated { wanted, left: self.left() };
        let Ok(count) = usize::try_from(wanted) else { return Err(truncated) };
        let Some(taken) = self.bytes[self.position..].get(..count) else { return Err(truncated) };
        self.position += count;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Flaw> {
        self.fixed().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Flaw> {
        self.fixed().map(u64::from_le_bytes)
    }

    /// A string: its length in 8 bytes, then UTF-8.
    pub(super) fn string(&mut self) -> Result<String, Flaw> {
        let length = self.u64()?;
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| Flaw::NotUtf8)
    }

    /// A value: its type in 4 bytes, then its bytes.
    pub(super) fn value(&mut self) -> Result<Value, Flaw> {
        Ok(match self.u32()? {
            0 => Value::U8(self.fixed().map(u8::from_le_bytes)?),
            1 => Value::I8(self.fixed().map(i8::from_le_bytes)?),
            2 => Value::U16(self.fixed().map(u16::from_le_bytes)?),
            3 => Value::I16(self.fixed().map(i16::from_le_bytes)?),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.fixed().map(i32::from_le_bytes)?),
            6 => Value::F32(self.fixed().map(f32::from_le_bytes)?),
            7 => Value::Bool(boolean(self.fixed::<1>()?[0])?),
            8 => Value::String(self.string()?),
            ARRAY_TYPE => Value::Array(self.array()?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.fixed().map(i64::from_le_bytes)?),
            12 => Value::F64(self.fixed().map(f64::from_le_bytes)?),
            other => return Err(Flaw::ValueType(other)),
        })
    }

    /// An array: the type of its items in 4 bytes, their number in 8, then the items.
    fn array(&mut self) -> Result<Array, Flaw> {
        let item = self.u32()?;
        let count = self.u64()?;
        Ok(match item {
            0 => Array::U8(self.items(count, u8::from_le_bytes)?),
            1 => Array::I8(self.items(count, i8::from_le_bytes)?),
            2 => Array::U16(self.items(count, u16::from_le_bytes)?),
            3 => Array::I16(self.items(count, i16::from_le_bytes)?),
            4 => Array::U32(self.items(count, u32::from_le_bytes)?),
            5 => Array::I32(self.items(count, i32::from_le_bytes)?),
            6 => Array::F32(self.items(count, f32::from_le_bytes)?),
            7 => {
                let bytes = self.take(count)?.iter();
                Array::Bool(bytes.map(|&b| boolean(b)).collect::<Result<_, _>>()?)
            }
            8 => Array::Strings(self.strings(count)?),
            ARRAY_TYPE => return Err(Flaw::NestedArray),
            10 => Array::U64(self.items(count, u64::from_le_bytes)?),
            11 => Array::I64(self.items(count, i64::from_le_bytes)?),
            12 => Array::F64(self.items(count, f64::from_le_bytes)?),
            other => return Err(Flaw::ValueType(other)),
        })
    }

    fn items<T, const N: usize>(
        &mut self,
        count: u64,
        item: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Flaw> {
        let bytes = self.take(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks().0.iter().map(|b| item(*b)).collect())
    }

    fn strings(&mut self, count: u64) -> Result<Vec<String>, Flaw> {
        let wanted = count.saturating_mul(8); // the lengths alone
        if wanted > self.left() as u64 {
            return Err(Flaw::Truncated { wanted, left: self.left() });
        }
        (0..count).map(|_| self.string()).collect()
    }
}

fn boolean(byte: u8) -> Result<bool, Flaw> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Flaw::Bool(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(type_id: u32, rest: &[u8]) -> Result<Value, Flaw> {
        let bytes = [&type_id.to_le_bytes()[..], rest].concat();
        Cursor::new(&bytes).value()
    }

    #[test]
    fn scalars_are_little_endian() {
        assert_eq!(value(2, &[1, 2]), Ok(Value::U16(513)));
        assert_eq!(value(5, &[254, 255, 255, 255]), Ok(Value::I32(-2)));
        assert_eq!(value(7, &[1]), Ok(Value::Bool(true)));
        assert_eq!(value(8, &[2, 0, 0, 0, 0, 0, 0, 0, b'o', b'k']), Ok(Value::String("ok".into())));
    }

    #[test]
    fn flaws_are_told_apart() {
        assert_eq!(value(7, &[2]), Err(Flaw::Bool(2)));
        assert_eq!(value(13, &[]), Err(Flaw::ValueType(13)));
        assert_eq!(value(4, &[0, 0]), Err(Flaw::Truncated { wanted: 4, left: 2 }));
        assert_eq!(value(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), Err(Flaw::NotUtf8));
    }

    #[test]
    fn lengths_beyond_the_file_allocate_nothing() {
        let huge = u64::MAX.to_le_bytes();
        let wanted = u64::MAX;
        assert_eq!(value(8, &huge), Err(Flaw::Truncated { wanted, left: 0 }));
        for item in [0u32, 3, 6, 7, 8, 12] {
            let array = [&item.to_le_bytes()[..], &huge].concat();
            assert_eq!(value(ARRAY_TYPE, &array), Err(Flaw::Truncated { wanted, left: 0 }));
        }
        let nested = [&ARRAY_TYPE.to_le_bytes()[..], &huge].concat();
        assert_eq!(value(ARRAY_TYPE, &nested), Err(Flaw::NestedArray));
    }
}
