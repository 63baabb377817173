//! Hoffmann's Approach 2: a parabola for every budget.
//!
//! Runs of one budget differ in size only, and their losses over ln N lie near a parabola. Its vertex
//! is the best size for the budget, and a line through the vertices in logarithms is the law. How
//! far from the best run a parabola still fits is a choice that moves the result, so the fit says
//! what other windows would give.

use crate::loss_frontier::LossFrontier;
use crate::points::Point;
use crate::power_law::{FrontierLaw, PowerLaw};

/// Reach of a parabola around the lowest loss, in ln N.
pub const WINDOW: f64 = 1.2;
/// The other reaches that a fit reports, and all points.
const WINDOWS: [f64; 6] = [0.8, 1.0, 1.2, 1.5, 2.0, f64::INFINITY];
/// Runs belong to a budget if their operations are so near, in ln C.
const BUDGET_WIDTH: f64 = 0.12;
/// Points of a parabola.
const FEWEST: usize = 4;

/// Where the budgets of a table come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Budgets {
    /// Each run names its own ([`Point::budget`]).
    Named,
    /// These; a run belongs to all within 12 % of its operations.
    Given(Vec<f64>),
    /// Wherever runs have nearly the same operations.
    Found,
}

/// The runs of a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Operations.
    pub budget: f64,
    /// Its runs.
    pub points: Vec<Point>,
}

/// A parabola of loss over ln N.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parabola {
    /// Operations.
    pub budget: f64,
    /// Runs of the budget.
    pub points: usize,
    /// Runs that the parabola goes through.
    pub fitted: usize,
    /// Best size.
    pub params: f64,
    /// Tokens of the best size, `C / 6N`.
    pub tokens: f64,
    /// Loss of the best size.
    pub loss: f64,
    /// Half the second derivative of loss by ln N.
    pub curvature: f64,
    /// Least and greatest size fitted.
    pub range: (f64, f64),
}

impl Parabola {
    /// Loss of another size.
    pub fn at(&self, params: f64) -> f64 {
        self.loss + self.curvature * (params / self.params).ln().powi(2)
    }
}

/// A law through the vertices.
#[derive(Debug, Clone, PartialEq)]
pub struct IsoFlop {
    /// Best size and tokens for a budget.
    pub law: FrontierLaw,
    /// Lowest loss for a budget; `None` with fewer than three parabolas.
    pub loss: Option<LossFrontier>,
    /// One for each budget whose optimum lies among its sizes.
    pub parabolas: Vec<Parabola>,
    /// Budgets without such an optimum, or with too few runs.
    pub left_out: Vec<f64>,
    /// What other windows give; an infinite one is all runs.
    pub windows: Vec<(f64, FrontierLaw)>,
}

/// Puts runs together by their budgets, ascending.
pub fn group_by_budget(points: &[Point], budgets: &Budgets) -> Vec<Group> {
    let mut groups = match budgets {
        Budgets::Given(budgets) => budgets
            .iter()
            .map(|&budget| {
                let near = |point: &&Point| (point.flops() / budget).ln().abs() < BUDGET_WIDTH;
                Group { budget, points: points.iter().filter(near).copied().collect() }
            })
            .collect(),
        Budgets::Named => named(points),
        Budgets::Found => found(points),
    };
    groups.retain(|group| !group.points.is_empty());
    groups.sort_by(|x, y| x.budget.total_cmp(&y.budget));
    groups
}

fn named(points: &[Point]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for point in points {
        match groups.iter_mut().find(|group| (group.budget / point.budget).ln().abs() < 1e-3) {
            Some(group) => group.points.push(*point),
            None => groups.push(Group { budget: point.budget, points: vec![*point] }),
        }
    }
    groups
}

/// The most crowded place first, then that of the rest, and so on.
fn found(points: &[Point]) -> Vec<Group> {
    let mut left = points.to_vec();
    let mut groups = Vec::new();
    loop {
        let near = |center: f64, point: &Point| (point.flops() / center).ln().abs() < BUDGET_WIDTH;
        let crowd = |center: f64| left.iter().filter(|point| near(center, point)).count();
        let centers = left.iter().map(Point::flops);
        let Some((count, center)) =
            centers.map(|center| (crowd(center), center)).max_by_key(|(count, _)| *count)
        else {
            break;
        };
        if count < FEWEST {
            break;
        }
        let (inside, outside) = left.iter().partition(|point| near(center, point));
        let inside: Vec<Point> = inside;
        left = outside;
        let mean = inside.iter().map(|p| p.flops().ln()).sum::<f64>() / inside.len() as f64;
        groups.push(Group { budget: mean.exp(), points: inside });
    }
    groups
}

/// Fits a parabola to every group and a line through their vertices. `None` if fewer than two
/// budgets have their optimum among their sizes.
pub fn isoflop(groups: &[Group]) -> Option<IsoFlop> {
    let (parabolas, left_out) = parabolas(groups, WINDOW);
    let law = line(&parabolas)?;
    let windows = WINDOWS
        .iter()
        .filter_map(|&window| Some((window, line(&self::parabolas(groups, window).0)?)))
        .collect();
    let loss = lowest(&parabolas);
    Some(IsoFlop { law, loss, parabolas, left_out, windows })
}

/// The laws alone.
pub(crate) fn isoflop_laws(groups: &[Group]) -> Option<(FrontierLaw, Option<LossFrontier>)> {
    let (parabolas, _) = parabolas(groups, WINDOW);
    Some((line(&parabolas)?, lowest(&parabolas)))
}

fn lowest(parabolas: &[Parabola]) -> Option<LossFrontier> {
    let lowest: Vec<(f64, f64)> = parabolas.iter().map(|p| (p.budget, p.loss)).collect();
    LossFrontier::fit(&lowest)
}

fn line(parabolas: &[Parabola]) -> Option<FrontierLaw> {
    let params = PowerLaw::fit(parabolas.iter().map(|p| (p.budget, p.params)))?;
    Some(FrontierLaw::from_params(params))
}

fn parabolas(groups: &[Group], window: f64) -> (Vec<Parabola>, Vec<f64>) {
    let (mut parabolas, mut left_out) = (Vec::new(), Vec::new());
    for group in groups {
        match parabola(group, window) {
            Some(parabola) => parabolas.push(parabola),
            None => left_out.push(group.budget),
        }
    }
    (parabolas, left_out)
}

/// `None` with too few runs, or if the loss has no minimum between the least and the greatest size.
fn parabola(group: &Group, window: f64) -> Option<Parabola> {
    let best = group.points.iter().min_by(|x, y| x.loss.total_cmp(&y.loss))?;
    let near = |point: &&Point| (point.params / best.params).ln().abs() < window;
    let points: Vec<&Point> = group.points.iter().filter(near).collect();
    if points.len() < FEWEST {
        return None;
    }
    let logs: Vec<(f64, f64)> =
        points.iter().map(|point| ((point.params / best.params).ln(), point.loss)).collect();
    let [constant, slope, curvature] = quadratic(&logs)?;
    let (least, greatest) = logs.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |ends, log| {
        (ends.0.min(log.0), ends.1.max(log.0))
    });
    let vertex = -slope / (2.0 * curvature);
    if curvature <= 0.0 || !(least..=greatest).contains(&vertex) {
        return None;
    }
    let params = best.params * vertex.exp();
    Some(Parabola {
        budget: group.budget,
        points: group.points.len(),
        fitted: points.len(),
        params,
        tokens: group.budget / (crate::law::TRAIN_FLOPS * params),
        loss: constant + slope * vertex + curvature * vertex * vertex,
        curvature,
        range: (best.params * least.exp(), best.params * greatest.exp()),
    })
}

/// Least squares of `y = c0 + c1 x + c2 x²`; `None` with fewer than three different `x`.
fn quadratic(points: &[(f64, f64)]) -> Option<[f64; 3]> {
    let sum = |power: i32| points.iter().map(|(x, _)| x.powi(power)).sum::<f64>();
    let moment = |power: i32| points.iter().map(|(x, y)| x.powi(power) * y).sum::<f64>();
    let mut rows: [[f64; 4]; 3] = std::array::from_fn(|i| {
        let i = i as i32;
        [sum(i), sum(i + 1), sum(i + 2), moment(i)]
    });
    // Gauss and Jordan, the greatest pivot first.
    let scale = rows[0][0].max(rows[2][2]);
    for column in 0..3 {
        let pivot =
            (column..3).max_by(|&i, &j| rows[i][column].abs().total_cmp(&rows[j][column].abs()))?;
        rows.swap(column, pivot);
        let top = rows[column];
        if top[column].abs() <= 1e-12 * scale {
            return None;
        }
        for (index, row) in rows.iter_mut().enumerate() {
            let factor = row[column] / top[column];
            if index != column {
                row.iter_mut().zip(top).for_each(|(value, above)| *value -= factor * above);
            }
        }
    }
    Some(std::array::from_fn(|i| rows[i][3] / rows[i][i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parabola_is_found_exactly() {
        let points: Vec<(f64, f64)> =
            [-1.0, -0.3, 0.2, 0.9, 1.4].map(|x| (x, 3.0 - 0.5 * x + 0.25 * x * x)).to_vec();
        let found = quadratic(&points).unwrap();
        for (got, expected) in found.iter().zip([3.0, -0.5, 0.25]) {
            assert!((got - expected).abs() < 1e-12, "{found:?}");
        }
        assert_eq!(quadratic(&[(1.0, 2.0), (1.0, 3.0), (2.0, 3.0), (2.0, 1.0)]), None);
    }

    /// Runs of a budget whose best size is `best`, and whether the sizes reach beyond it.
    fn runs(budget: f64, best: f64, sizes: &[f64]) -> Vec<Point> {
        let point = |factor: &f64| {
            let params = best * factor;
            Point::new(params, budget / (6.0 * params), 3.0 + 0.1 * factor.ln().powi(2))
        };
        sizes.iter().map(point).collect()
    }

    #[test]
    fn budgets_are_found_and_one_without_a_minimum_is_left_out() {
        let sizes = [0.4, 0.7, 1.0, 1.5, 2.0];
        let mut points = runs(2.15e18, 1e8, &sizes);
        points.extend(runs(4.64e18, 1.5e8, &sizes));
        points.extend(runs(1e19, 2.25e8, &[1.2, 1.5, 2.0, 2.5]));
        let groups = group_by_budget(&points, &Budgets::Found);
        assert_eq!(groups.len(), 3);
        assert!((groups[0].budget / 2.15e18 - 1.0).abs() < 1e-9);
        assert_eq!(groups, {
            let mut named = group_by_budget(&points, &Budgets::Named);
            named.iter_mut().zip(&groups).for_each(|(named, group)| named.budget = group.budget);
            named
        });
        let fit = isoflop(&groups).unwrap();
        assert_eq!((fit.parabolas.len(), fit.left_out.len()), (2, 1));
        assert!((fit.parabolas[0].params / 1e8 - 1.0).abs() < 1e-9);
        assert!((fit.parabolas[0].at(2e8) - 3.0 - 0.1 * 2f64.ln().powi(2)).abs() < 1e-9);
        let slope = 1.5f64.ln() / (4.64f64 / 2.15).ln();
        assert!((fit.law.params.exponent - slope).abs() < 1e-9);
        assert!(isoflop(&groups[..1]).is_none());
    }
}
