//! Memory of a forward pass on slices, kept from one pass to the next.
//!
//! Inference on the CPU walks the layers over plain slices (`infer` of each layer): no tensor is
//! made, nothing is allocated per token, residual sums are added where products end. The layers'
//! `forward` over tensors is what can be differentiated and what other devices run; both call the
//! same kernels, and tests compare them.

use puna_kernels::{Input, InputBuffers, Matrix, Output};

use crate::{Linear, NnError, Precision};

/// Buffers of one forward pass; they grow to the largest number of tokens seen.
#[derive(Default)]
pub struct Workspace {
    pub(crate) buffers: InputBuffers,
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
    pub(crate) value: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    pub(crate) ffn: FfnWorkspace,
    pub(crate) branch: Vec<f32>,
    pub(crate) rows: Vec<f32>,
}

/// Buffers of a feed-forward part.
#[derive(Default)]
pub(crate) struct FfnWorkspace {
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
}

/// The first `len` values of a buffer, whatever they hold.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Applies layers with one input, in one parallel region: `y = x Wᵀ + b` or `y += …`.
///
/// # Shapes
/// `x` `[N, in]`, outputs `[N, out]`
///
/// # Errors
/// If the widths do not agree, or a weight is a tensor.
pub(crate) fn apply(
    x: &[f32],
    buffers: &mut InputBuffers,
    layers: &mut [(&Linear, Output<'_>)],
    precision: Precision,
) -> Result<(), NnError> {
    let mut products = Vec::with_capacity(layers.len());
    for (layer, y) in layers.iter_mut() {
        let (rows, cols) = (layer.weight().rows(), layer.weight().cols().max(1));
        let matrix = stored(layer, x.len() / cols)?;
        if !x.len().is_multiple_of(cols) {
            return Err(NnError::Shape { what: "input width", expected: cols, got: x.len() });
        }
        let (expected, got) = (x.len() / cols * rows, y.len());
        if expected != got {
            return Err(NnError::Shape { what: "output values", expected, got });
        }
        products.push((matrix, y.reborrow()));
    }
    Input::new(x, buffers).matmul_all(&mut products, precision);
    for (layer, y) in layers {
        if let Some(bias) = layer.bias() {
            bias.with(|bias| {
                for row in y.values_mut().chunks_exact_mut(bias.len().max(1)) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
                }
            })?;
        }
    }
    Ok(())
}

fn stored(layer: &Linear, tokens: usize) -> Result<Matrix<'_>, NnError> {
    layer.weight_for(tokens).matrix().ok_or(NnError::Tracked { op: "inference on slices" })
}
