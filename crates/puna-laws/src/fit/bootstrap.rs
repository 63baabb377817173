//! Fits of resampled points: how far a fit would move with other luck.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::bfgs::minimize;
use super::objective::Objective;
use super::{Fit, FitOptions, check_options, parallel, sharpen};
use crate::ensemble::Ensemble;
use crate::error::LawError;
use crate::points::{Point, check};

/// Fits `resamples` draws with replacement of the points, each from the law of `fit`. Draws whose
/// fit is no law, with exponents that are not positive, are left out.
///
/// # Errors
/// As [`fit`](super::fit), and [`LawError::Option`] for fewer than 20 resamples, of which no interval
/// can be made.
pub fn bootstrap(
    points: &[Point],
    fit: &Fit,
    options: &FitOptions,
    resamples: usize,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Ensemble, LawError> {
    check(points)?;
    check_options(options)?;
    if resamples < 20 {
        let got = resamples.to_string();
        return Err(LawError::Option { option: "bootstrap", got, wanted: "at least 20" });
    }
    let objective = Objective::new(points, options.loss.first_delta());
    let start = objective.variables(&fit.law);
    let laws = parallel::map(resamples, progress, |index| {
        let drawn = draw(points.len(), options.seed, index as u64);
        let resampled = objective.resampled(&drawn);
        let end = minimize(&resampled, start);
        resampled.law(&sharpen(&resampled, end, options.loss))
    });
    Ensemble::new(laws.into_iter().filter(|law| law.alpha > 0.0 && law.beta > 0.0).collect())
}

/// How often each of `count` points is drawn.
fn draw(count: usize, seed: u64, index: u64) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // A stream for each resample: the result does not depend on who makes it.
    random.set_stream(index + 1);
    let mut drawn = vec![0; count];
    for _ in 0..count {
        // The bias of the remainder is below 1e-15.
        drawn[(random.next_u64() % count as u64) as usize] += 1;
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resample_has_as_many_points_and_is_another() {
        let draws: Vec<Vec<u32>> = (0..50).map(|index| draw(30, 1, index)).collect();
        assert!(draws.iter().all(|drawn| drawn.iter().sum::<u32>() == 30));
        assert_ne!(draws[0], draws[1]);
        assert_eq!(draws[7], draw(30, 1, 7));
        let first: u32 = draws.iter().map(|drawn| drawn[0]).sum();
        assert!((25..80).contains(&first), "{first}");
    }
}
