//! The bytes of a tensor, mapped from a file or owned, cheap to clone.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use memmap2::Mmap;

use crate::Dtype;

/// Type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// How the elements are stored.
    pub dtype: Dtype,
    /// Row-major, outermost axis first: `[out, in]` for matrices.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements; `None` on overflow.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }

    /// Number of bytes; `None` on overflow or a split block.
    pub fn byte_len(&self) -> Option<usize> {
        self.dtype.tensor_bytes(&self.shape)
    }
}

/// A tensor as it is stored: contiguous, row-major, little endian.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Type and shape.
    pub info: TensorInfo,
    /// Exactly `info.byte_len()` bytes.
    pub bytes: TensorBytes,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mmap>),
    Owned(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

/// A range of a mapped file or of a shared buffer. Clones share the memory.
#[derive(Clone)]
pub struct TensorBytes {
    owner: Owner,
    range: Range<usize>,
}

impl TensorBytes {
    /// Takes ownership of a buffer.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Owner::Owned(Arc::new(bytes)), range }
    }

    /// Bytes that are part of the program.
    pub fn from_static(bytes: &'static [u8]) -> Self {
        Self { owner: Owner::Static(bytes), range: 0..bytes.len() }
    }

    /// All bytes of a mapped file.
    pub(crate) fn from_map(map: Arc<Mmap>) -> Self {
        let range = 0..map.len();
        Self { owner: Owner::Mapped(map), range }
    }

    /// A part of these bytes, sharing the memory; `None` if the range is not inside.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.range.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: self.owner.clone(), range: start..start + range.len() })
    }

    /// Gives a mapped file's pages of these bytes back to the system; they are read again from the
    /// file when they are touched. For who has made a copy of their own.
    pub fn release(&self) {
        if let Owner::Mapped(map) = &self.owner {
            crate::map::release(map, &self.range);
        }
    }

    /// Whether the bytes lie in a file's pages (the program's own count as well) rather than in
    /// memory of their own.
    pub fn is_mapped(&self) -> bool {
        !matches!(self.owner, Owner::Owned(_))
    }
}

impl Deref for TensorBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.owner {
            Owner::Mapped(map) => &map[self.range.clone()],
            Owner::Owned(vec) => &vec[self.range.clone()],
            Owner::Static(bytes) => &bytes[self.range.clone()],
        }
    }
}

impl fmt::Debug for TensorBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_mapped() { "mapped" } else { "owned" };
        write!(f, "TensorBytes({} bytes, {kind})", self.range.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_and_stay_inside() {
        let bytes = TensorBytes::from_vec((0..10).collect());
        let part = bytes.slice(2..7).and_then(|b| b.slice(1..3)).expect("inside");
        assert_eq!(&*part, &[3, 4]);
        assert!(bytes.slice(5..11).is_none());
        assert!(part.slice(0..3).is_none());
    }
}
