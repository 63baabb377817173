//! BFGS for a handful of variables.
//!
//! The line search asks for the weak Wolfe conditions by bisection (Lewis and Overton, "Nonsmooth
//! optimization via quasi-Newton methods", 2013): fits of laws minimize sums of nearly absolute
//! values, where strong conditions may be met nowhere. Where a search fails or the function stops
//! falling, the estimate of the curvature is thrown away and built anew; the end is where that
//! brings nothing.

/// Where a minimization ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Minimum<const V: usize> {
    /// The point.
    pub(crate) x: [f64; V],
    /// The function there.
    pub(crate) value: f64,
}

/// A function with its gradient.
pub(crate) trait Smooth<const V: usize> {
    /// The value at `x`; the gradient is written. Not finite means: out of bounds.
    fn at(&self, x: &[f64; V], gradient: &mut [f64; V]) -> f64;
}

/// Steps of one descent.
const MOST_STEPS: usize = 400;
/// Descents of one minimization.
const MOST_DESCENTS: usize = 12;
/// Trials of one line search.
const MOST_TRIALS: usize = 50;
/// A gradient as small as this is zero.
const FLAT: f64 = 1e-9;
/// Relative fall below which a descent has stalled, and of a whole descent below which another is
/// not worth while.
const STALLED: f64 = 1e-14;
const NO_GAIN: f64 = 1e-11;

/// The minimum that is reached from a start; the start itself if the function is not finite there.
pub(crate) fn minimize<const V: usize>(f: &impl Smooth<V>, start: [f64; V]) -> Minimum<V> {
    let mut gradient = [0.0; V];
    let mut best = Minimum { x: start, value: f.at(&start, &mut gradient) };
    if !best.value.is_finite() {
        return best;
    }
    for _ in 0..MOST_DESCENTS {
        let reached = descend(f, best);
        let gain = best.value - reached.value;
        if gain > 0.0 {
            best = reached;
        }
        if gain <= NO_GAIN * best.value.abs() {
            break;
        }
    }
    best
}

/// One descent, from no knowledge of the curvature.
fn descend<const V: usize>(f: &impl Smooth<V>, start: Minimum<V>) -> Minimum<V> {
    let mut here = start;
    let mut gradient = [0.0; V];
    f.at(&here.x, &mut gradient);
    let mut inverse = identity(1.0 / norm(&gradient).max(1.0));
    let mut stalls = 0;
    for step in 0..MOST_STEPS {
        if norm(&gradient) < FLAT {
            break;
        }
        let mut direction = product(&inverse, &gradient).map(|value| -value);
        if dot(&direction, &gradient) >= 0.0 {
            inverse = identity(1.0 / norm(&gradient).max(1.0));
            direction = product(&inverse, &gradient).map(|value| -value);
        }
        let Some((there, new_gradient)) = search(f, &here, &gradient, &direction) else {
            break;
        };
        let moved = difference(&there.x, &here.x);
        let turned = difference(&new_gradient, &gradient);
        let curvature = dot(&moved, &turned);
        if curvature > 0.0 {
            if step == 0 {
                inverse = identity(curvature / dot(&turned, &turned));
            }
            update(&mut inverse, &moved, &turned, curvature);
        }
        let fall = here.value - there.value;
        (here, gradient) = (there, new_gradient);
        stalls = if fall <= STALLED * here.value.abs() { stalls + 1 } else { 0 };
        if stalls == 3 {
            break;
        }
    }
    here
}

/// A point along a direction that is low enough and no longer as steep; `None` if none is found.
fn search<const V: usize>(
    f: &impl Smooth<V>,
    here: &Minimum<V>,
    gradient: &[f64; V],
    direction: &[f64; V],
) -> Option<(Minimum<V>, [f64; V])> {
    const ENOUGH: f64 = 1e-4;
    const STEEP: f64 = 0.9;
    let slope = dot(gradient, direction);
    let (mut low, mut high, mut length) = (0.0, f64::INFINITY, 1.0);
    let mut found = None;
    for _ in 0..MOST_TRIALS {
        let x = std::array::from_fn(|i| here.x[i] + length * direction[i]);
        let mut new_gradient = [0.0; V];
        let value = f.at(&x, &mut new_gradient);
        // Not "greater": whatever is not finite is too far.
        let falls = value <= here.value + ENOUGH * length * slope;
        if !falls {
            high = length;
        } else {
            found = Some((Minimum { x, value }, new_gradient));
            if dot(&new_gradient, direction) >= STEEP * slope {
                break;
            }
            low = length;
        }
        length = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    found
}

/// `H ← (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ` with `ρ = 1 / sᵀy`.
fn update<const V: usize>(
    inverse: &mut [[f64; V]; V],
    moved: &[f64; V],
    turned: &[f64; V],
    curvature: f64,
) {
    let image = product(inverse, turned);
    let factor = (1.0 + dot(turned, &image) / curvature) / curvature;
    for i in 0..V {
        for j in 0..V {
            inverse[i][j] += factor * moved[i] * moved[j]
                - (image[i] * moved[j] + moved[i] * image[j]) / curvature;
        }
    }
}

fn identity<const V: usize>(scale: f64) -> [[f64; V]; V] {
    std::array::from_fn(|i| std::array::from_fn(|j| if i == j { scale } else { 0.0 }))
}

fn product<const V: usize>(matrix: &[[f64; V]; V], vector: &[f64; V]) -> [f64; V] {
    std::array::from_fn(|i| dot(&matrix[i], vector))
}

fn dot<const V: usize>(a: &[f64; V], b: &[f64; V]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm<const V: usize>(a: &[f64; V]) -> f64 {
    dot(a, a).sqrt()
}

fn difference<const V: usize>(a: &[f64; V], b: &[f64; V]) -> [f64; V] {
    std::array::from_fn(|i| a[i] - b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `100 (y - x²)² + (1 - x)²`: a curved valley.
    struct Rosenbrock;

    impl Smooth<2> for Rosenbrock {
        fn at(&self, [x, y]: &[f64; 2], gradient: &mut [f64; 2]) -> f64 {
            let bend = y - x * x;
            *gradient = [-400.0 * x * bend - 2.0 * (1.0 - x), 200.0 * bend];
            100.0 * bend * bend + (1.0 - x).powi(2)
        }
    }

    /// `|x - 3| + 10 |y + 1|`, defined for x > 0 only.
    struct Kinks;

    impl Smooth<2> for Kinks {
        fn at(&self, [x, y]: &[f64; 2], gradient: &mut [f64; 2]) -> f64 {
            *gradient = [(x - 3.0).signum(), 10.0 * (y + 1.0).signum()];
            if *x > 0.0 { (x - 3.0).abs() + 10.0 * (y + 1.0).abs() } else { f64::NAN }
        }
    }

    #[test]
    fn a_curved_valley_is_followed_to_its_end() {
        let end = minimize(&Rosenbrock, [-1.2, 1.0]);
        assert!(end.value < 1e-18, "{end:?}");
        assert!((end.x[0] - 1.0).abs() < 1e-8 && (end.x[1] - 1.0).abs() < 1e-8, "{end:?}");
    }

    #[test]
    fn kinks_and_bounds_do_not_stop_it() {
        let end = minimize(&Kinks, [0.5, 40.0]);
        assert!(end.value < 1e-6, "{end:?}");
    }

    #[test]
    fn a_start_out_of_bounds_stays_where_it_is() {
        let end = minimize(&Kinks, [-1.0, 0.0]);
        assert!(end.value.is_nan());
        assert_eq!(end.x, [-1.0, 0.0]);
    }
}
