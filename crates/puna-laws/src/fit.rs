//! Fitting the parametric law to points: Hoffmann's Approach 3.
//!
//! Many starts on Hoffmann's grid, each descended by BFGS with the exact gradient, on all cores; the
//! lowest end is the fit, and how many others agree with it says whether it can be trusted. The
//! bootstrap fits resamples of the points from there.

mod bfgs;
mod bootstrap;
mod objective;
mod parallel;
mod starts;

use self::bfgs::{Minimum, minimize};
use self::objective::{Objective, Variables};
use crate::error::LawError;
use crate::law::ParametricLaw;
use crate::points::{Point, check};

pub use self::bootstrap::bootstrap;

/// δ of Hoffmann et al. 2022.
pub const DELTA: f64 = 1e-3;

/// What a residual costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RobustLoss {
    /// Quadratic up to δ, linear beyond.
    Huber {
        /// Where it becomes linear, in ln loss.
        delta: f64,
    },
    /// Least absolute deviations: the limit of Huber's for δ → 0, reached through falling δ. The
    /// published constants of Besiroglu et al. 2024 are this one's, by a scale that was learned.
    L1,
}

/// The deltas of [`RobustLoss::L1`], each from the end of the one before.
const FALLING: [f64; 4] = [1e-4, 1e-5, 1e-6, 1e-7];

impl Default for RobustLoss {
    fn default() -> Self {
        Self::Huber { delta: DELTA }
    }
}

impl RobustLoss {
    /// δ of the descent from far away.
    fn first_delta(self) -> f64 {
        match self {
            Self::Huber { delta } => delta,
            Self::L1 => DELTA,
        }
    }

    /// The deltas after it.
    fn further_deltas(self) -> &'static [f64] {
        match self {
            Self::Huber { .. } => &[],
            Self::L1 => &FALLING,
        }
    }
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// What a residual costs.
    pub loss: RobustLoss,
    /// Starts: so many random places of Hoffmann's grid, all 4,500 if there are as many.
    pub starts: usize,
    /// Of the random choices of starts and resamples.
    pub seed: u64,
}

impl Default for FitOptions {
    fn default() -> Self {
        Self { loss: RobustLoss::default(), starts: 300, seed: 0 }
    }
}

/// A fitted law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// The law.
    pub law: ParametricLaw,
    /// `Σ Huber_δ` of the residuals of ln loss, or the sum of their absolute values.
    pub objective: f64,
    /// Starts descended from.
    pub starts: usize,
    /// Starts that ended at the same objective, within a millionth.
    pub agreeing_starts: usize,
    /// Points fitted.
    pub points: usize,
    /// Root of the mean square of the residuals of ln loss.
    pub rms_residual: f64,
}

/// Relative difference of objectives that is none.
const AGREES: f64 = 1e-6;
/// Objectives per point below this are zero: the points lie on a law exactly.
const EXACT: f64 = 1e-12;

/// Fits the law to points. `progress` is told of starts done and all, from several threads.
///
/// # Errors
/// [`LawError::FewPoints`], [`LawError::FewValues`] if the points cannot determine a law,
/// [`LawError::Value`] if one is not positive and finite, [`LawError::Option`] for no starts or a δ
/// that is none, [`LawError::NoLaw`] if the best fit rises with size or tokens.
pub fn fit(
    points: &[Point],
    options: &FitOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Fit, LawError> {
    check(points)?;
    check_options(options)?;
    let objective = Objective::new(points, options.loss.first_delta());
    let starts = starts::choose(&objective, options.starts, options.seed);
    let ends = parallel::map(starts.len(), progress, |i| minimize(&objective, starts[i]));
    let finite = ends.iter().filter(|end| end.value.is_finite());
    let Some(best) = finite.min_by(|a, b| a.value.total_cmp(&b.value)) else {
        return Err(LawError::NoLaw { alpha: f64::NAN, beta: f64::NAN });
    };
    let slack = AGREES * best.value + EXACT * points.len() as f64;
    let agreeing = ends.iter().filter(|end| end.value <= best.value + slack).count();
    let end = sharpen(&objective, *best, options.loss);
    let law = objective.law(&end);
    if !(law.alpha > 0.0 && law.beta > 0.0 && law.a.is_finite() && law.b.is_finite()) {
        return Err(LawError::NoLaw { alpha: law.alpha, beta: law.beta });
    }
    let squares: f64 = points.iter().map(|point| residual(&law, point).powi(2)).sum();
    Ok(Fit {
        law,
        objective: objective_of(points, &law, options.loss),
        starts: starts.len(),
        agreeing_starts: agreeing,
        points: points.len(),
        rms_residual: (squares / points.len() as f64).sqrt(),
    })
}

/// What a fit with this loss minimizes, for any law.
pub fn objective_of(points: &[Point], law: &ParametricLaw, loss: RobustLoss) -> f64 {
    let cost = |residual: f64| match loss {
        RobustLoss::L1 => residual.abs(),
        RobustLoss::Huber { delta } if residual.abs() <= delta => 0.5 * residual * residual,
        RobustLoss::Huber { delta } => delta * (residual.abs() - 0.5 * delta),
    };
    points.iter().map(|point| cost(residual(law, point))).sum()
}

/// `ln L̂ - ln L`.
fn residual(law: &ParametricLaw, point: &Point) -> f64 {
    (law.loss(point.params, point.tokens) / point.loss).ln()
}

/// The end for the loss itself, from the end of the first δ.
fn sharpen(objective: &Objective, end: Minimum<5>, loss: RobustLoss) -> Variables {
    let mut end = end.x;
    for delta in loss.further_deltas() {
        let sharper = minimize(&objective.with_delta(*delta), end).x;
        if objective.absolute(&sharper) <= objective.absolute(&end) {
            end = sharper;
        }
    }
    end
}

fn check_options(options: &FitOptions) -> Result<(), LawError> {
    let wrong = |option, got: String, wanted| Err(LawError::Option { option, got, wanted });
    if options.starts == 0 {
        return wrong("starts", "0".to_owned(), "at least 1");
    }
    match options.loss {
        RobustLoss::Huber { delta } if !(1e-9..=1e3).contains(&delta) => {
            wrong("delta", delta.to_string(), "between 1e-9 and 1000")
        }
        _ => Ok(()),
    }
}
