//! Strided views of storages: checked once, then read without a copy where they are contiguous.

use std::collections::HashMap;
use std::path::Path;

use super::state_dict::NamedView;
use crate::pickle::Element;
use crate::{IoError, StoredTensor, TensorBytes, TensorInfo};

/// A tensor of a PyTorch file whose every element is known to lie in its storage.
#[derive(Debug)]
pub(super) struct View {
    info: TensorInfo,
    layout: Layout,
}

#[derive(Debug)]
enum Layout {
    /// The tensor's bytes as they are.
    Contiguous(TensorBytes),
    /// From the first element on, with strides in elements.
    Strided { from: TensorBytes, strides: Vec<usize> },
}

impl View {
    pub(super) fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// Checks a view against its storage.
    pub(super) fn resolve(
        path: &Path,
        name: &str,
        named: NamedView,
        storages: &HashMap<String, TensorBytes>,
    ) -> Result<Self, IoError> {
        let fail = |expected: String, got: String| IoError::tensor(path, name, expected, got);
        let dtype = match named.view.element {
            Element::Plain(dtype) => dtype,
            Element::Unsupported(kind) => {
                return Err(IoError::UnsupportedType {
                    path: path.to_path_buf(),
                    tensor: name.to_owned(),
                    kind: kind.to_owned(),
                });
            }
            Element::Bytes => return Err(fail("a typed tensor".into(), "bytes".into())),
        };
        let storage = storages
            .get(&named.key)
            .ok_or_else(|| fail(format!("the storage `{}`", named.key), "no such entry".into()))?;
        let stored = named.storage_element.size().and_then(|s| s.checked_mul(named.storage_len));
        if stored != Some(storage.len()) {
            return Err(fail(
                format!("a storage of {} elements", named.storage_len),
                format!("{} bytes", storage.len()),
            ));
        }
        let size = dtype.block_bytes();
        let info = TensorInfo { dtype, shape: named.view.shape };
        let (offset, strides) = (named.view.offset, named.view.strides);
        let inside = info.elements().is_some_and(|n| {
            let len = storage.len() / size;
            // As many elements as the storage has: an expanded view would have no bound.
            n == 0
                || (n <= len && last_index(offset, &info.shape, &strides).is_some_and(|i| i < len))
        });
        if !inside {
            return Err(fail(
                format!("a view inside the {} bytes of storage `{}`", storage.len(), named.key),
                format!("{dtype} {:?} at {offset} with strides {strides:?}", info.shape),
            ));
        }
        let layout = layout(&info, storage, offset, strides);
        let layout =
            layout.ok_or_else(|| fail("a view of its storage".into(), "another".into()))?;
        Ok(Self { info, layout })
    }

    pub(super) fn read(&self) -> StoredTensor {
        let bytes = match &self.layout {
            Layout::Contiguous(bytes) => bytes.clone(),
            Layout::Strided { from, strides } => {
                TensorBytes::from_vec(gather(from, &self.info, strides))
            }
        };
        StoredTensor { info: self.info.clone(), bytes }
    }
}

fn layout(
    info: &TensorInfo,
    storage: &TensorBytes,
    offset: usize,
    strides: Vec<usize>,
) -> Option<Layout> {
    let bytes = info.byte_len()?;
    if bytes == 0 {
        return Some(Layout::Contiguous(storage.slice(0..0)?));
    }
    let start = offset.checked_mul(info.dtype.block_bytes())?;
    if is_contiguous(&info.shape, &strides) {
        return Some(Layout::Contiguous(storage.slice(start..start.checked_add(bytes)?)?));
    }
    Some(Layout::Strided { from: storage.slice(start..storage.len())?, strides })
}

/// The storage index of a view's last element, `offset + Σ (shape − 1) · stride`; `None` on
/// overflow.
fn last_index(offset: usize, shape: &[usize], strides: &[usize]) -> Option<usize> {
    shape.iter().zip(strides).try_fold(offset, |sum, (&n, &stride)| {
        sum.checked_add(n.checked_sub(1)?.checked_mul(stride)?)
    })
}

/// Whether row-major order is the order in the storage; strides of axes of length 1 say nothing.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    for (&n, &stride) in shape.iter().zip(strides).rev() {
        if n != 1 && stride != expected {
            return false;
        }
        expected *= n;
    }
    true
}

/// Copies a strided view into row-major order.
fn gather(from: &[u8], info: &TensorInfo, strides: &[usize]) -> Vec<u8> {
    let size = info.dtype.block_bytes();
    let mut out = Vec::with_capacity(info.byte_len().unwrap_or(0));
    let mut index = vec![0; info.shape.len()];
    let mut at = 0;
    loop {
        out.extend_from_slice(&from[at * size..(at + 1) * size]);
        // Count up like an odometer, the last axis fastest.
        let mut axis = index.len();
        loop {
            if axis == 0 {
                return out;
            }
            axis -= 1;
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < info.shape[axis] {
                break;
            }
            at -= index[axis] * strides[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    #[test]
    fn a_transposed_view_is_gathered_row_by_row() {
        // Storage 0..6 as [2, 3]; its transpose is [3, 2] with strides [1, 3].
        let info = TensorInfo { dtype: Dtype::U8, shape: vec![3, 2] };
        assert_eq!(gather(&[0, 1, 2, 3, 4, 5], &info, &[1, 3]), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn contiguity_ignores_axes_of_length_one() {
        assert!(is_contiguous(&[2, 1, 3], &[3, 99, 1]));
        assert!(is_contiguous(&[], &[]));
        assert!(!is_contiguous(&[2, 3], &[1, 2]));
    }

    #[test]
    fn the_last_index_is_checked_for_overflow() {
        assert_eq!(last_index(5, &[2, 3], &[3, 1]), Some(10));
        assert_eq!(last_index(0, &[usize::MAX, 2], &[usize::MAX, 1]), None);
    }
}
