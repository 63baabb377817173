//! Keys and values of one layer as tensors, for decoders whose layers run on a device.
//!
//! One buffer per layer that doubles when it is full. A clone shares it; whoever writes first
//! copies. Sliding windows keep everything: what a query does not see is masked.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::NnError;

/// Positions that a buffer begins with.
const FIRST_CAPACITY: usize = 256;

/// What a layer remembers.
#[derive(Debug, Clone, Default)]
pub(crate) struct TensorLayer {
    held: Option<Arc<Held>>,
}

/// How a layer keeps keys and values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeptAs<'a> {
    /// `K`
    pub(crate) heads: usize,
    /// `D`
    pub(crate) head_dim: usize,
    pub(crate) dtype: DType,
    pub(crate) device: &'a Device,
}

#[derive(Debug)]
struct Held {
    /// `[K, capacity, D]`
    keys: Tensor,
    /// `[K, capacity, D]`
    values: Tensor,
}

impl TensorLayer {
    /// Writes new keys and values behind the first `len` and returns all of them.
    ///
    /// # Shapes
    /// `k`, `v` `[K, T, D]`, contiguous, of the type that is kept → `[K, len + T, D]` each
    ///
    /// # Errors
    /// If gradients flow through them: writing into a buffer would lose these silently.
    pub(crate) fn append(
        &mut self,
        len: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> Result<(Tensor, Tensor), NnError> {
        if k.track_op() || v.track_op() {
            return Err(NnError::Tracked { op: "the KV cache" });
        }
        let (heads, tokens, head_dim) = k.dims3()?;
        let end = len + tokens;
        let like = KeptAs { heads, head_dim, dtype: k.dtype(), device: k.device() };
        let (keys, values) = self.room(len, end, &like)?;
        keys.slice_set(k, 1, len)?;
        values.slice_set(v, 1, len)?;
        Ok((keys.narrow(1, 0, end)?, values.narrow(1, 0, end)?))
    }

    /// The buffers with the first `len` positions, in which those up to `end` may be written: nothing
    /// else sees them.
    ///
    /// # Shapes
    /// `[K, capacity, D]` each
    ///
    /// # Errors
    /// If there is no memory.
    pub(crate) fn room(
        &mut self,
        len: usize,
        end: usize,
        like: &KeptAs<'_>,
    ) -> Result<(&Tensor, &Tensor), NnError> {
        let writable = self
            .held
            .as_mut()
            .is_some_and(|held| Arc::get_mut(held).is_some_and(|held| held.capacity() >= end));
        if !writable {
            self.held = Some(Arc::new(self.copy(len, end, like)?));
        }
        match &self.held {
            Some(held) => Ok((&held.keys, &held.values)),
            None => Err(NnError::Shape { what: "buffers of a cache", expected: 1, got: 0 }),
        }
    }

    /// The first `len` positions in a buffer that has room for `end`, and some more.
    fn copy(&self, len: usize, end: usize, like: &KeptAs<'_>) -> Result<Held, NnError> {
        let room = self.held.as_ref().map_or(FIRST_CAPACITY, |held| held.capacity());
        let capacity = if room >= end { room } else { end.next_power_of_two().max(FIRST_CAPACITY) };
        let empty =
            || Tensor::zeros((like.heads, capacity, like.head_dim), like.dtype, like.device);
        let copy = Held { keys: empty()?, values: empty()? };
        if let Some(held) = self.held.as_ref().filter(|_| len > 0) {
            copy.keys.slice_set(&held.keys.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
            copy.values.slice_set(&held.values.narrow(1, 0, len)?.contiguous()?, 1, 0)?;
        }
        Ok(copy)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.held = None;
    }

    /// Bytes of the buffers, used or not.
    pub(crate) fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        self.held.as_ref().map_or(0, |held| size(&held.keys) + size(&held.values))
    }
}

impl Held {
    fn capacity(&self) -> usize {
        self.keys.dims()[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap().reshape((1, values.len(), 1)).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_buffer_grows_keeps_what_it_holds_and_goes_back() {
        let mut layer = TensorLayer::default();
        let first: Vec<f32> = (0..250).map(|i| i as f32).collect();
        layer.append(0, &tokens(&first), &tokens(&first)).unwrap();
        let next: Vec<f32> = (250..300).map(|i| i as f32).collect();
        let (k, v) = layer.append(250, &tokens(&next), &tokens(&next)).unwrap();
        let all: Vec<f32> = (0..300).map(|i| i as f32).collect();
        assert_eq!((values(&k), values(&v)), (all.clone(), all.clone()));
        assert_eq!(layer.bytes(), 2 * 4 * 512);
        let (k, _) = layer.append(100, &tokens(&[-1.0]), &tokens(&[-1.0])).unwrap();
        assert_eq!(values(&k), [&all[..100], &[-1.0]].concat());
    }

    #[test]
    fn keys_that_gradients_flow_through_are_refused() {
        let tracked = candle_core::Var::from_tensor(&tokens(&[1.0])).unwrap();
        let error = TensorLayer::default().append(0, &tracked, &tokens(&[1.0])).unwrap_err();
        assert!(error.to_string().contains("KV cache"), "{error}");
    }

    #[test]
    fn a_clone_is_not_changed_by_what_the_other_writes() {
        let mut one = TensorLayer::default();
        one.append(0, &tokens(&[1.0, 2.0]), &tokens(&[1.0, 2.0])).unwrap();
        let mut other = one.clone();
        let (k, _) = other.append(2, &tokens(&[3.0]), &tokens(&[3.0])).unwrap();
        let (l, _) = one.append(2, &tokens(&[4.0]), &tokens(&[4.0])).unwrap();
        assert_eq!((values(&k), values(&l)), (vec![1.0, 2.0, 3.0], vec![1.0, 2.0, 4.0]));
    }
}
