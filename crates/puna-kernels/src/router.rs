//! The choice of experts in a mixture-of-experts layer.

/// The `k` largest logits of one token with their indices, largest first; ties go to the lower
/// index, NaN counts as the smallest value. `out` is cleared first; it gets all logits where there
/// are no more than `k`.
pub fn top_k(logits: &[f32], k: usize, out: &mut Vec<(usize, f32)>) {
    let key = |x: f32| if x.is_nan() { f32::NEG_INFINITY } else { x };
    out.clear();
    for (index, &logit) in logits.iter().enumerate() {
        let rank = out.partition_point(|&(_, kept)| key(kept) >= key(logit));
        if rank < k {
            out.truncate(k - 1);
            out.insert(rank, (index, logit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::top_k;

    #[test]
    fn top_k_orders_by_logit_and_breaks_ties_by_index() {
        let mut out = vec![(9, 9.0)];
        top_k(&[1.0, 3.0, 2.0, 3.0, f32::NAN], 3, &mut out);
        assert_eq!(out, [(1, 3.0), (3, 3.0), (2, 2.0)]);
        top_k(&[1.0, 3.0], 5, &mut out);
        assert_eq!(out, [(1, 3.0), (0, 1.0)]);
        top_k(&[1.0], 0, &mut out);
        assert!(out.is_empty());
    }
}
