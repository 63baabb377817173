//! Which singular values are left: the importance of triplets and the budget (sections 3.2 and 3.3).

use puna_nn::Parameter;

use super::AdaLoraConfig;
use super::layer::Triplets;

/// Smoothed sensitivity (eq. 9) and uncertainty (eq. 10) of a parameter's values; empty before the
/// first update.
#[derive(Debug, Default)]
pub(super) struct Importance {
    pub(super) sensitivity: Vec<f32>,
    pub(super) uncertainty: Vec<f32>,
}

impl Importance {
    /// With `I = |w · ∂L/∂w|` (eq. 6) of an update; peft takes the values behind it, as is done here.
    fn add(&mut self, parameter: &Parameter, (beta1, beta2): (f32, f32)) {
        self.sensitivity.resize(parameter.len(), 0.0);
        self.uncertainty.resize(parameter.len(), 0.0);
        let values = parameter.values();
        parameter.with_gradient(|gradient| {
            let smoothed = self.sensitivity.iter_mut().zip(&mut self.uncertainty);
            for (i, (mean, uncertainty)) in smoothed.enumerate() {
                let now = (values[i] * gradient.as_ref().map_or(0.0, |g| g[i])).abs();
                *mean = beta1 * *mean + (1.0 - beta1) * now;
                *uncertainty = beta2 * *uncertainty + (1.0 - beta2) * (now - *mean).abs();
            }
        });
    }

    /// `s = Ī · Ū` (eq. 11)
    fn of(&self, i: usize) -> f64 {
        f64::from(self.sensitivity[i]) * f64::from(self.uncertainty[i])
    }
}

/// Importance of a layer's values: of `A`, `E` and `B`.
pub(super) type OfLayer = [Importance; 3];

/// Prunes singular values in the course of a training.
#[derive(Debug)]
pub(super) struct Allocator {
    config: AdaLoraConfig,
    importance: Vec<OfLayer>,
    /// What was left at the last pruning, by layer.
    kept: Vec<Option<Vec<bool>>>,
    steps: Option<u64>,
    /// Whether the training goes on.
    unfinished: bool,
}

impl Allocator {
    pub(super) fn new(
        config: &AdaLoraConfig,
        kept: Vec<Option<Vec<bool>>>,
        importance: Vec<OfLayer>,
    ) -> Self {
        Self { config: config.clone(), importance, kept, steps: None, unfinished: false }
    }

    /// What the next updates of an unfinished training need of a layer.
    pub(super) fn unfinished(&self, layer: usize) -> Option<&OfLayer> {
        self.importance.get(layer).filter(|_| self.unfinished)
    }

    /// Which singular values of a layer are left; `None` before the first pruning.
    pub(super) fn kept(&self, layer: usize) -> Option<&[bool]> {
        self.kept.get(layer)?.as_deref()
    }

    /// Updates of the training, once there was one.
    pub(super) fn steps(&self) -> Option<u64> {
        self.steps
    }

    /// What peft's `update_and_allocate` does.
    pub(super) fn after_update(&mut self, layers: &[&Triplets], step: u64, steps: u64) {
        let total = self.config.total_step.unwrap_or(steps);
        self.steps = Some(total);
        self.unfinished = step < steps;
        let end = total.saturating_sub(self.config.tfinal);
        if step < end {
            let betas = (self.config.beta1, self.config.beta2);
            for (triplets, importance) in layers.iter().zip(&mut self.importance) {
                let [a, e, b] = importance;
                a.add(&triplets.a, betas);
                e.add(&triplets.e, betas);
                b.add(&triplets.b, betas);
            }
            if step > self.config.tinit && step.is_multiple_of(self.config.delta_t) {
                self.prune(layers, self.budget(step, end, layers.len()));
            }
        } else if step == end {
            self.prune(layers, self.config.target_r * layers.len());
            self.importance = layers.iter().map(|_| OfLayer::default()).collect();
        } else {
            self.mask(layers);
        }
    }

    /// Singular values left after an update, a cubic from all to the target (eq. 13).
    fn budget(&self, step: u64, end: u64, layers: usize) -> usize {
        let (first, last) = (self.config.init_r * layers, self.config.target_r * layers);
        let all = (end - self.config.tinit) as f64;
        let left = 1.0 - (step - self.config.tinit) as f64 / all;
        ((first - last) as f64 * left.powi(3) + last as f64) as usize
    }

    /// Keeps the `budget` most important triplets of all layers. Of equally important ones peft prunes
    /// all, here the first ones are kept, so that the budget is what was asked for.
    fn prune(&mut self, layers: &[&Triplets], budget: usize) {
        let mut scores = Vec::new();
        for (layer, (triplets, importance)) in layers.iter().zip(&self.importance).enumerate() {
            let of_layer = scores_of(triplets, importance).into_iter().enumerate();
            scores.extend(of_layer.map(|(i, score)| (score, layer, i)));
        }
        scores.sort_by(|x, y| y.0.total_cmp(&x.0)); // stable
        self.kept = layers.iter().map(|triplets| Some(vec![false; triplets.rank()])).collect();
        for &(_, layer, i) in scores.iter().take(budget) {
            if let Some(Some(kept)) = self.kept.get_mut(layer) {
                kept[i] = true;
            }
        }
        self.mask(layers);
    }

    /// Sets pruned singular values to zero (eq. 5); they may grow again until the last pruning.
    fn mask(&self, layers: &[&Triplets]) {
        for (triplets, kept) in layers.iter().zip(&self.kept) {
            let Some(kept) = kept else { continue };
            let mut e = triplets.e.values_mut();
            e.iter_mut().zip(kept).filter(|(_, kept)| !**kept).for_each(|(e, _)| *e = 0.0);
        }
    }
}

/// `S = s(λ) + mean s(P) + mean s(Q)` of each triplet (eq. 7).
fn scores_of(triplets: &Triplets, importance: &OfLayer) -> Vec<f64> {
    let [a, e, b] = importance;
    let (r, (width, out)) = (triplets.rank(), triplets.widths());
    if e.sensitivity.is_empty() {
        return vec![0.0; r];
    }
    let score = |i: usize| {
        let of_a: f64 = (0..width).map(|c| a.of(i * width + c)).sum();
        let of_b: f64 = (0..out).map(|row| b.of(row * r + i)).sum();
        e.of(i) + of_a / width as f64 + of_b / out as f64
    };
    (0..r).map(score).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn config() -> AdaLoraConfig {
        AdaLoraConfig { init_r: 4, target_r: 1, tinit: 2, tfinal: 2, ..AdaLoraConfig::default() }
    }

    #[test]
    fn the_budget_falls_as_a_cubic_from_all_to_the_target() {
        let allocator = Allocator::new(&config(), vec![None; 2], Vec::new());
        let budgets: Vec<usize> = (2..=10).map(|step| allocator.budget(step, 10, 2)).collect();
        // 6 ((8 - t) / 8)³ + 2
        assert_eq!(budgets, [8, 6, 4, 3, 2, 2, 2, 2, 2]);
    }

    #[test]
    fn importance_is_smoothed_as_in_the_paper() {
        let parameter = Parameter::new("w", &[1], vec![2.0]);
        parameter.add_to_gradient(|g| g[0] = -3.0);
        let mut importance = Importance::default();
        importance.add(&parameter, (0.5, 0.75));
        // I = 6, Ī = 3, U = 3, Ū = 0.75
        assert_eq!((importance.sensitivity[0], importance.uncertainty[0]), (3.0, 0.75));
        importance.add(&parameter, (0.5, 0.75));
        // Ī = 4.5, Ū = 0.75 · 0.75 + 0.25 · 1.5
        assert_eq!((importance.sensitivity[0], importance.uncertainty[0]), (4.5, 0.9375));
        assert_eq!(importance.of(0), 4.5 * 0.9375);
    }

    #[test]
    fn the_least_important_triplets_are_pruned_and_stay_so_after_the_last_pruning() {
        let parameter = |shape: [usize; 2], values| Arc::new(Parameter::new("p", &shape, values));
        let triplets = Triplets {
            a: parameter([4, 1], vec![1.0; 4]),
            e: parameter([4, 1], vec![4.0, 1.0, 3.0, 2.0]),
            b: parameter([1, 4], vec![1.0; 4]),
        };
        triplets.e.add_to_gradient(|g| g.fill(1.0));
        let mut allocator = Allocator::new(&config(), vec![None], vec![OfLayer::default()]);
        for step in 1..=2 {
            allocator.after_update(&[&triplets], step, 8);
            assert!(allocator.kept(0).is_none());
        }
        allocator.after_update(&[&triplets], 3, 8);
        // 3 (3/4)³ + 1 = 2.27
        assert_eq!(triplets.e.values().as_slice(), [4.0, 0.0, 3.0, 0.0]);
        for step in 4..=8 {
            triplets.e.values_mut()[3] = 0.5;
            allocator.after_update(&[&triplets], step, 8);
        }
        assert_eq!(triplets.e.values().as_slice(), [4.0, 0.0, 0.0, 0.0]);
        assert_eq!(allocator.kept(0), Some([true, false, false, false].as_slice()));
        assert_eq!(allocator.steps(), Some(8));
    }
}
