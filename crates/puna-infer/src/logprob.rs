//! Log-softmax: `log p_i = logit_i - log Σ_j exp(logit_j)`.
//!
//! The maximum is taken out first, so that no exponential overflows; exponentials are f32 and partial
//! sums f64, which keeps the error of a log-probability near 1e-7 for vocabularies of any size. Logits
//! that are not finite are rejected. Every sequence of a batch pays for this at every token, beside the
//! GPU on one thread: it is a kernel.

use crate::error::InferError;

/// `log Σ_j exp(logits_j)`.
///
/// # Shapes
/// `logits: [V]`, `V ≥ 1`.
///
/// # Errors
/// [`InferError::NonFiniteLogit`] names the first logit that is NaN or infinite.
pub fn log_sum_exp(logits: &[f32]) -> Result<f64, InferError> {
    // Without an early end, so that the loop is one of vectors; a vocabulary is long.
    if logits.iter().fold(false, |bad, value| bad | !value.is_finite()) {
        let found = logits.iter().position(|value| !value.is_finite());
        let token = found.unwrap_or_default();
        return Err(InferError::NonFiniteLogit { token, value: logits[token] });
    }
    let (max, sum) = puna_kernels::sum_exp(logits);
    Ok(f64::from(max) + sum.ln())
}

/// The log-probability of `token` under `logits`, in nats.
///
/// # Shapes
/// `logits: [V]`.
///
/// # Errors
/// [`InferError::NonFiniteLogit`], or [`InferError::TokenOutOfRange`] for a token beyond `V`.
pub fn log_prob(logits: &[f32], token: u32) -> Result<f32, InferError> {
    let logit = logits.get(token as usize).ok_or(InferError::TokenOutOfRange {
        position: 0,
        token,
        vocab_size: logits.len(),
    })?;
    Ok((f64::from(*logit) - log_sum_exp(logits)?) as f32)
}

/// The `count` most probable tokens and their log-probabilities in nats, the best first, the lowest id
/// among equals. `normalizer` is [`log_sum_exp`] of the logits.
///
/// # Shapes
/// `logits: [V]`.
pub(crate) fn most_probable(logits: &[f32], normalizer: f64, count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&(_, last)| logit <= last) {
            continue;
        }
        let at = best.partition_point(|&(_, other)| other >= logit);
        best.insert(at, (token as u32, logit));
        best.truncate(count);
    }
    best.iter_mut().for_each(|(_, logit)| *logit = (f64::from(*logit) - normalizer) as f32);
    best
}

#[cfg(test)]
mod tests {
    use super::{log_prob, log_sum_exp, most_probable};
    use crate::error::InferError;

    #[test]
    fn two_equal_logits_have_probability_one_half() {
        assert!((log_prob(&[3.0, 3.0], 1).unwrap() - 0.5f32.ln()).abs() < 1e-7);
    }

    #[test]
    fn the_most_probable_come_best_first_and_lowest_id_first_among_equals() {
        let ids = |count| -> Vec<u32> {
            most_probable(&[1.0, 3.0, 2.0, 3.0], 0.0, count).iter().map(|&(id, _)| id).collect()
        };
        assert_eq!((ids(0), ids(3), ids(9)), (vec![], vec![1, 3, 2], vec![1, 3, 2, 0]));
        assert_eq!(most_probable(&[2.0, 2.0], 3.0, 1), [(0, -1.0)]);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        assert!((log_sum_exp(&[1e30, -1e30, 0.0]).unwrap() / 1e30 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_nan_or_infinite_logit_is_an_error_that_names_the_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = log_sum_exp(&[0.0, 1.0, bad]).unwrap_err();
            assert!(matches!(error, InferError::NonFiniteLogit { token: 2, .. }), "{error}");
        }
    }
}
