//! `y = x ∘ m / (1 − p)` with a random mask `m` (arXiv:1207.0580).
//!
//! Backward: `dx = dy ∘ m / (1 − p)`.
//!
//! The mask is a function of a seed and the place of a value, so that a pass that is computed twice
//! has the same one, whatever the number of threads.

use candle_core::{DType, Device, Tensor};

use super::with_f32;
use crate::{NnError, Value};

/// Sets values to zero with probability `p` and scales the others by `1 / (1 − p)`.
///
/// # Errors
/// If `x` is not float32.
pub fn dropout(x: &Value, p: f32, seed: u64) -> Result<Value, NnError> {
    let y = masked(x.tensor(), p, seed)?;
    Ok(Value::derived(y, &[x], move |dy| Ok(vec![Some(masked(dy, p, seed)?)])))
}

fn masked(x: &Tensor, p: f32, seed: u64) -> Result<Tensor, NnError> {
    if !x.device().is_cpu() {
        // The numbers are the CPU's wherever they are used.
        let ones = Tensor::ones(x.shape(), DType::F32, &Device::Cpu)?;
        return Ok((x.to_dtype(DType::F32)? * masked(&ones, p, seed)?.to_device(x.device())?)?);
    }
    let mut y = with_f32(x, <[f32]>::to_vec)?;
    let scale = 1.0 / (1.0 - p);
    puna_kernels::for_each_chunk_mut(&mut y, 1 << 14, |first, y| {
        for (i, y) in y.iter_mut().enumerate() {
            *y *= if uniform(seed, (first + i) as u64) < p { 0.0 } else { scale };
        }
    });
    Ok(Tensor::from_vec(y, x.shape(), &Device::Cpu)?)
}

/// A number from 0 to below 1 (SplitMix64's output function).
fn uniform(seed: u64, index: u64) -> f32 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::tests::gradcheck;
    use puna_testkit::{GradTolerance, random_tensor};

    #[test]
    fn dropout_backward_matches_central_differences() {
        gradcheck(
            |x| dropout(&x[0], 0.4, 3),
            &[random_tensor(1, &[5, 7])],
            GradTolerance::default(),
        );
    }

    #[test]
    fn a_tenth_is_dropped_the_mean_stays_and_gradients_have_the_same_mask() {
        let ones = Tensor::ones((100, 1000), candle_core::DType::F32, &Device::Cpu).unwrap();
        let leaf = Value::leaf(ones.clone());
        let y = dropout(&leaf, 0.1, 7).unwrap();
        let values: Vec<f32> = y.tensor().flatten_all().unwrap().to_vec1().unwrap();
        let dropped = values.iter().filter(|&&v| v == 0.0).count();
        assert!((9_600..10_400).contains(&dropped), "{dropped}");
        assert!(values.iter().all(|&v| v == 0.0 || (v - 1.0 / 0.9).abs() < 1e-6));
        let gradient = y.backward(ones.clone()).unwrap();
        let gradient: Vec<f32> =
            gradient.of(&leaf).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(gradient, values);
        let other = dropout(&Value::constant(ones), 0.1, 8).unwrap();
        assert_ne!(other.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap(), values);
    }
}
