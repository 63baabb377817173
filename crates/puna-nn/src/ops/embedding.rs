//! `x[n] = w[token n] · scale`; forward is [`Embedding::forward`](crate::Embedding::forward).
//!
//! Backward: `dw[v] += scale · Σ dx[n]` over the tokens `n` that are `v`. The lookup is where a pass
//! begins, so its backward is a function, not a node.

use candle_core::Tensor;
use puna_kernels::for_each_chunk_mut;

use crate::device_products::no_kernel;
use crate::{NnError, Parameter};

/// Adds the gradient of looked-up rows to the weight's.
///
/// # Shapes
/// `N` tokens, `dx` `[N, C]`, weight `[V, C]`
pub fn embedding_backward(weight: &Parameter, tokens: &[u32], dx: &[f32], scale: f32) {
    let width = dx.len() / tokens.len().max(1);
    // Rows of the gradient belong to one task each, and their terms come in the order of tokens.
    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|&n| tokens[n]);
    weight.add_to_gradient(|dw| {
        let rows = 256;
        for_each_chunk_mut(dw, rows * width, |first, dw| {
            let first = (first / width) as u32;
            let start = order.partition_point(|&n| tokens[n] < first);
            for &n in &order[start..] {
                let row = (tokens[n] - first) as usize * width;
                let Some(dw) = dw.get_mut(row..row + width) else { break };
                let dx = &dx[n * width..][..width];
                dw.iter_mut().zip(dx).for_each(|(dw, dx)| *dw += dx * scale);
            }
        });
    });
}

/// [`embedding_backward`] of a weight that has moved to a device, where `dx` is.
///
/// # Shapes
/// As there.
///
/// # Errors
/// If the weight has not moved, or the device has no kernel.
pub fn embedding_backward_on_device(
    weight: &Parameter,
    tokens: &[u32],
    dx: &Tensor,
    scale: f32,
) -> Result<(), NnError> {
    let dx = dx.contiguous()?;
    weight.add_device_gradient(|dw, adds| {
        if !adds {
            dw.zero_set()?;
        }
        puna_cuda::look_up_back(&dx, tokens, scale, dw)?.ok_or_else(no_kernel)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedding, Weight};
    use candle_core::Device;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};
    use std::sync::Arc;

    #[test]
    fn embedding_backward_matches_central_differences() {
        let tokens = [3, 0, 3, 1];
        let parameter = |w: &Tensor| {
            let values = w.flatten_all().unwrap().to_vec1().unwrap();
            Arc::new(Parameter::new("w", w.dims(), values))
        };
        gradcheck_by(
            |w| {
                let weight = Arc::new(Weight::Trained(parameter(&w[0])));
                let x = Embedding::new(weight, 1.5).forward(&tokens);
                x.map_err(candle_core::Error::wrap)
            },
            |w, seed| {
                let parameter = parameter(&w[0]);
                let seed = seed.flatten_all()?.to_vec1::<f32>()?;
                embedding_backward(&parameter, &tokens, &seed, 1.5);
                let gradient = parameter.with_gradient(|g| g.unwrap().to_vec());
                Ok(vec![Some(Tensor::from_vec(gradient, w[0].shape(), &Device::Cpu)?)])
            },
            &[random_tensor(1, &[5, 3])],
            GradTolerance::default(),
        );
    }
}
