//! Which tokens may be drawn at all: top-k, top-p, min-p, typical.
//!
//! Each step keeps a subset and the next one sees the subset's renormalized probabilities, as
//! transformers' chain of warpers does. Sorting a vocabulary of 128 k tokens costs more than the
//! draw, so a step first drops what it could not keep in any case.

use std::cmp::Ordering;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Its id.
    pub(crate) token: u32,
    /// Its logit after penalties and temperature, later its unnormalized probability's logarithm.
    pub(crate) logit: f32,
    /// Its share of the probability of all candidates; set by [`normalize`].
    pub(crate) prob: f64,
}

/// Higher logit first, lower id first among equals.
pub(crate) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Sets every `prob` to the softmax of the logits.
pub(crate) fn normalize(candidates: &mut [Candidate]) {
    let max = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for c in candidates.iter_mut() {
        c.prob = f64::from((c.logit - max).exp());
        sum += c.prob;
    }
    for c in candidates.iter_mut() {
        c.prob /= sum;
    }
}

/// Keeps the `k` most probable tokens, sorted (Fan et al. 2018, section 5.4). transformers keeps all
/// tokens tied with the k-th; here the lower ids win, so that exactly `k` remain.
pub(crate) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Keeps the smallest set of the most probable tokens whose mass reaches `p`, at least one, sorted
/// (Holtzman et al. 2020, equation 2).
///
/// Tokens below `(1 - p) / n` together weigh less than `1 - p`, so none of them can be needed; only
/// the others are sorted.
pub(crate) fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    normalize(candidates);
    let p = f64::from(p);
    let floor = (1.0 - p) / candidates.len() as f64;
    let best = candidates.iter().map(|c| c.prob).fold(0.0, f64::max);
    candidates.retain(|c| c.prob >= floor || c.prob == best);
    candidates.sort_unstable_by(by_rank);
    let mut mass = 0.0;
    let kept = candidates.iter().position(|c| {
        mass += c.prob;
        mass >= p
    });
    candidates.truncate(kept.map_or(candidates.len(), |last| last + 1));
}

/// Keeps the tokens at least `min_p` times as probable as the most probable one (Nguyen et al. 2024,
/// "Min-p sampling", algorithm 1).
pub(crate) fn min_p(candidates: &mut Vec<Candidate>, min_p: f32) {
    let best = candidates.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max);
    // p_i / p_best = exp(logit_i - logit_best)
    candidates.retain(|c| f64::from((c.logit - best).exp()) >= f64::from(min_p));
}

/// Keeps the tokens whose surprise is nearest the entropy until their mass reaches `mass` (Meister
/// et al. 2022, "Locally typical sampling", equation 6); tokens tied with the last kept one stay.
pub(crate) fn typical(candidates: &mut Vec<Candidate>, mass: f32) {
    normalize(candidates);
    let surprise = |c: &Candidate| -c.prob.ln();
    let entropy: f64 =
        candidates.iter().filter(|c| c.prob > 0.0).map(|c| c.prob * surprise(c)).sum();
    let distance = |c: &Candidate| (surprise(c) - entropy).abs();
    candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then(by_rank(a, b)));
    let mut sum = 0.0;
    let last = candidates.iter().position(|c| {
        sum += c.prob;
        sum >= f64::from(mass)
    });
    if let Some(last) = last {
        let limit = distance(&candidates[last]);
        candidates.retain(|c| distance(c) <= limit);
    }
    candidates.sort_unstable_by(by_rank);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Candidate, min_p, normalize, top_k, top_p, typical};
    use crate::sampling::rng::Rng;

    /// Candidates with the logarithms of `probs` as logits.
    pub(crate) fn candidates(probs: &[f64]) -> Vec<Candidate> {
        let candidate =
            |(i, p): (usize, &f64)| Candidate { token: i as u32, logit: p.ln() as f32, prob: 0.0 };
        probs.iter().enumerate().map(candidate).collect()
    }

    pub(crate) fn tokens(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.token).collect()
    }

    fn random(rng: &mut Rng) -> Vec<Candidate> {
        let len = 1 + (rng.next_u64() % 40) as usize;
        (0..len)
            .map(|i| Candidate {
                token: i as u32,
                logit: (rng.unit() * 12.0 - 6.0) as f32,
                prob: 0.0,
            })
            .collect()
    }

    #[test]
    fn top_k_keeps_the_k_best_and_lower_ids_among_equals() {
        let mut c = candidates(&[0.2, 0.3, 0.2, 0.3]);
        top_k(&mut c, 3);
        assert_eq!(tokens(&c), [1, 3, 0]);
    }

    #[test]
    fn top_p_keeps_the_smallest_set_that_reaches_the_mass() {
        let mut rng = Rng::from_seed(1);
        for _ in 0..300 {
            let mut all = random(&mut rng);
            normalize(&mut all);
            let p = rng.unit() as f32;
            let mut kept = all.clone();
            top_p(&mut kept, p);
            assert!(!kept.is_empty());
            let ids = tokens(&kept);
            let mass: f64 = all.iter().filter(|c| ids.contains(&c.token)).map(|c| c.prob).sum();
            assert!(mass >= f64::from(p) - 1e-9, "mass {mass} of {p}");
            // Without its least probable member the set misses the mass, so no smaller set of the
            // best reaches it.
            let last = kept.last().unwrap().prob;
            assert!(kept.len() == 1 || mass - last < f64::from(p) + 1e-9);
            let dropped = all.iter().filter(|c| !ids.contains(&c.token)).map(|c| c.prob);
            assert!(dropped.fold(0.0, f64::max) <= last + 1e-12);
        }
    }

    #[test]
    fn top_p_near_zero_keeps_one_token() {
        let mut c = candidates(&[0.4, 0.6]);
        top_p(&mut c, 1e-6);
        assert_eq!(tokens(&c), [1]);
    }

    #[test]
    fn min_p_keeps_exactly_the_tokens_above_the_share_of_the_best() {
        let mut rng = Rng::from_seed(2);
        for _ in 0..300 {
            let mut all = random(&mut rng);
            normalize(&mut all);
            let share = rng.unit() as f32;
            let mut kept = all.clone();
            min_p(&mut kept, share);
            let best = all.iter().map(|c| c.prob).fold(0.0, f64::max);
            for c in &all {
                let ratio = c.prob / best;
                if (ratio - f64::from(share)).abs() > 1e-5 {
                    assert_eq!(tokens(&kept).contains(&c.token), ratio > f64::from(share));
                }
            }
        }
    }

    #[test]
    fn typical_drops_the_most_probable_token_of_a_flat_distribution() {
        // Entropy 2.07 nats: 0.1 (surprise 2.30) is nearer to it than 0.3 (1.20).
        let mut c = candidates(&[0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]);
        typical(&mut c, 0.5);
        assert_eq!(tokens(&c), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn typical_reaches_the_mass_with_the_nearest_surprises() {
        let mut rng = Rng::from_seed(3);
        for _ in 0..300 {
            let mut all = random(&mut rng);
            normalize(&mut all);
            let entropy: f64 = all.iter().map(|c| -c.prob * c.prob.ln()).sum();
            let mass = rng.unit() as f32;
            let mut kept = all.clone();
            typical(&mut kept, mass);
            let ids = tokens(&kept);
            let sum: f64 = all.iter().filter(|c| ids.contains(&c.token)).map(|c| c.prob).sum();
            assert!(sum >= f64::from(mass) - 1e-9);
            let distance = |p: f64| (-p.ln() - entropy).abs();
            let farthest_kept = kept.iter().map(|c| distance(c.prob)).fold(0.0, f64::max);
            for c in all.iter().filter(|c| !ids.contains(&c.token)) {
                assert!(distance(c.prob) >= farthest_kept - 1e-9);
            }
        }
    }
}
