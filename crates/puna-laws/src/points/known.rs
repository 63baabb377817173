//! The points that Besiroglu et al. 2024 read from figure 4 of Hoffmann et al. 2022.
//!
//! They are the only public ones of that size, and the published constants rest on two choices for
//! them: five points are left out, and their budgets are those of the paper. Both are taken over
//! where these points are recognized; no other table is treated in a special way.

use super::Point;

/// Number of points.
const POINTS: usize = 245;
/// The highest losses, descending; those below the fifth are kept.
const HIGHEST: [f64; DROPPED] = [5.005_582, 4.665_232, 3.793_872, 3.765_563, 3.446_995];
/// How many are left out.
pub(super) const DROPPED: usize = 5;
/// Hoffmann et al. 2022, figure 3.
pub(super) const BUDGETS: [f64; 9] = [6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21];

/// Whether these are all 245 points.
pub fn is_besiroglu2024(points: &[Point]) -> bool {
    let mut losses: Vec<f64> = points.iter().map(|point| point.loss).collect();
    losses.sort_by(|x, y| y.total_cmp(x));
    let same = |(got, expected): (&f64, &f64)| (got - expected).abs() < 1e-4;
    losses.len() == POINTS && losses.iter().zip(&HIGHEST).all(same)
}
