//! LoftQ (arXiv:2310.08659, algorithm 1): a quantized weight and thin matrices that are close to a
//! weight together.

use std::sync::Arc;

use puna_nn::{CodebookScales, CodebookWeight, NnError, SharedBytes, Weight};

use super::start::{dense, leading};
use super::{Lora, add_product};
use crate::{Base, LoraConfig, Method, PeftError};

/// Values of the sixteen codes of NF4 (QLoRA, arXiv:2305.14314, appendix E).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Values per scale of NF4.
const BLOCK: usize = 64;

/// Iterations of the SVD in each step.
const SVD_ITERATIONS: usize = 8;

/// `W ≈ Q + s B A`.
#[derive(Debug, Clone)]
pub struct LoftQ {
    /// `Q`, in NF4.
    pub weight: CodebookWeight,
    /// `A` `[R, in]`
    pub a: Vec<f32>,
    /// `B` `[out, R]`
    pub b: Vec<f32>,
}

/// LoRA on a model that is quantized already, from the same model before: `B A` begins as the best
/// approximation of `W − Q` by its rank (LoftQ with one step). Unlike peft's
/// `replace_lora_weights_loftq` it takes the scale into account, so that `α ≠ r` is right, too.
///
/// # Errors
/// If a setting is wrong, or the models have different layers.
pub fn loftq_from(
    config: &LoraConfig,
    base: &Base<'_>,
    original: &Base<'_>,
) -> Result<Box<dyn Method>, PeftError> {
    Ok(Box::new(Lora::loftq(config, base, original)?))
}

/// Alternates between `Q = NF4(W − s B A)` and `s B A ≈ W − Q` by rank `rank`.
///
/// # Shapes
/// `w` `[out, in]`
///
/// # Errors
/// If the values do not have the shape.
pub fn loftq(
    w: &[f32],
    (out, width): (usize, usize),
    (rank, scale): (usize, f32),
    steps: usize,
) -> Result<LoftQ, NnError> {
    if w.len() != out * width {
        let (what, expected) = ("values of a weight", out * width);
        return Err(NnError::Shape { what, expected, got: w.len() });
    }
    let mut rest = w.to_vec();
    let mut step = 1;
    loop {
        let weight = nf4(&rest, (out, width));
        let mut lost = w.to_vec();
        let quantized = dense(&Weight::Codebook(weight.clone()))?;
        lost.iter_mut().zip(quantized).for_each(|(w, q)| *w -= q);
        let (a, b) = leading(&lost, (out, width), (rank, scale), SVD_ITERATIONS, "loftq");
        if step >= steps {
            return Ok(LoftQ { weight, a, b });
        }
        rest.copy_from_slice(w);
        add_product(&mut rest, (&a, &b), rank, -scale);
        step += 1;
    }
}

/// The nearest codes, blocks behind one another over the rows.
fn nf4(w: &[f32], (rows, cols): (usize, usize)) -> CodebookWeight {
    let mut scales = Vec::with_capacity(w.len().div_ceil(BLOCK));
    let mut codes = Vec::with_capacity(w.len());
    for block in w.chunks(BLOCK) {
        let absmax = block.iter().fold(0f32, |most, w| most.max(w.abs()));
        let factor = if absmax > 0.0 { 1.0 / absmax } else { 0.0 };
        // The number of midpoints below a value is the number of its nearest code.
        let nearest = |w: &f32| {
            NF4.windows(2).filter(|pair| w * factor > f32::midpoint(pair[0], pair[1])).count() as u8
        };
        codes.extend(block.iter().map(nearest));
        scales.push(absmax);
    }
    let pair = |pair: &[u8]| pair[0] << 4 | pair.get(1).copied().unwrap_or_default();
    let nibbles: Vec<u8> = codes.chunks(2).map(pair).collect();
    let scales = CodebookScales::Single(scales);
    let nibbles: SharedBytes = Arc::new(nibbles);
    CodebookWeight { rows, cols, nibbles, codebook: NF4, scales, block: BLOCK }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Random;

    fn distance(w: &[f32], shape: (usize, usize), of: Option<&LoftQ>) -> f32 {
        let mut rest = w.to_vec();
        let quantized = match of {
            Some(of) => {
                add_product(&mut rest, (&of.a, &of.b), 4, -0.5);
                of.weight.clone()
            }
            None => nf4(w, shape),
        };
        let quantized = dense(&Weight::Codebook(quantized)).unwrap();
        rest.iter().zip(quantized).map(|(w, q)| (w - q).powi(2)).sum::<f32>().sqrt()
    }

    #[test]
    fn nf4_takes_the_nearest_code() {
        let weight = nf4(&[2.0, -2.0, 0.0, 0.17, 1.4, -0.2], (2, 3));
        let values = dense(&Weight::Codebook(weight)).unwrap();
        let expected = [1.0, -1.0, 0.0, NF4[8], NF4[14], NF4[6]].map(|code| 2.0 * code);
        assert_eq!(values, expected);
    }

    #[test]
    fn every_step_of_loftq_comes_closer_than_quantization_alone() {
        let shape = (48, 32);
        let w = Random::new(1).normal(48 * 32, 1.0);
        let plain = distance(&w, shape, None);
        let one = distance(&w, shape, Some(&loftq(&w, shape, (4, 0.5), 1).unwrap()));
        let five = distance(&w, shape, Some(&loftq(&w, shape, (4, 0.5), 5).unwrap()));
        assert!(one < 0.9 * plain && five < one, "{plain} {one} {five}");
        assert!(loftq(&w, (48, 33), (4, 0.5), 1).is_err());
    }
}
