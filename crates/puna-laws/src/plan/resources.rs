//! What there is to train with, as operations: GPUs for a time, or money at a price.

use crate::cost::{USUAL_MFU, flops_of_hours, gpu_hours};
use crate::error::{LawError, Result};
use crate::hardware::{Gpu, Machine};

/// GPUs of a node: more than half of one are whole ones.
const NODE: usize = 8;

/// GPUs, time and money; all numbers are positive.
#[derive(Debug, Clone, PartialEq)]
pub struct Resources {
    /// The accelerator, if one was named.
    pub gpu: Option<Gpu>,
    /// How many.
    pub count: Option<usize>,
    /// How long.
    pub hours: Option<f64>,
    /// Money.
    pub budget: Option<f64>,
    /// Money per GPU-hour.
    pub price: Option<f64>,
    /// Share of the peak that training reaches.
    pub mfu: f64,
}

impl Default for Resources {
    fn default() -> Self {
        let (gpu, count, hours, budget, price) = (None, None, None, None, None);
        Self { gpu, count, hours, budget, price, mfu: USUAL_MFU }
    }
}

impl Resources {
    /// The accelerator, or the usual one.
    ///
    /// # Errors
    /// Never for the embedded table.
    pub fn gpu(&self) -> Result<Gpu> {
        self.gpu.clone().map_or_else(|| Gpu::find("h100"), Ok)
    }

    /// Operations that they allow; `None` if no time and no money is given, or if the time is a
    /// deadline: GPUs are not counted and `wished` says that something else decides.
    ///
    /// # Errors
    /// [`LawError::TwoWishes`] for time and money at once, [`LawError::Needs`] for half of a pair.
    pub fn flops(&self, wished: bool) -> Result<Option<f64>> {
        if self.budget.is_some() && self.hours.is_some() {
            return Err(LawError::TwoWishes {
                first: "--days",
                second: "--budget",
                why: "both decide how many GPU-hours there are",
            });
        }
        if self.budget.is_some() && self.price.is_none() {
            return Err(LawError::Needs {
                option: "--budget",
                needs: "--price, dollars per GPU-hour",
            });
        }
        if (self.hours.is_some() || self.budget.is_some()) && self.gpu.is_none() {
            let option = if self.hours.is_some() { "--days" } else { "--budget" };
            return Err(LawError::Needs { option, needs: "--gpu, the kind of GPU" });
        }
        let hours = match (self.hours, self.budget, self.price) {
            (Some(_), _, _) if wished && self.count.is_none() => None,
            (Some(hours), _, _) => Some(hours * self.count.unwrap_or(1) as f64),
            (None, Some(budget), Some(price)) => Some(budget / price),
            _ => None,
        };
        let peak = self.gpu()?.training_peak();
        hours.map(|hours| Ok(flops_of_hours(hours, peak?, self.mfu))).transpose()
    }

    /// GPUs that finish `flops` by the deadline, whole nodes from half of one on; `None` without a
    /// deadline.
    ///
    /// # Errors
    /// [`LawError::NoPeak`].
    pub fn gpus_for_deadline(&self, flops: f64) -> Result<Option<usize>> {
        let (Some(hours), None) = (self.hours, self.count) else { return Ok(None) };
        let needed = gpu_hours(flops, self.gpu()?.training_peak()?, self.mfu) / hours;
        let needed = needed.ceil().max(1.0) as usize;
        Ok(Some(if needed > NODE / 2 { needed.next_multiple_of(NODE) } else { needed }))
    }

    /// The machine, if its size is known.
    ///
    /// # Errors
    /// Never for the embedded table.
    pub fn machine(&self, count: usize) -> Result<Machine> {
        Ok(Machine { gpu: self.gpu()?, count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h100(count: Option<usize>) -> Resources {
        Resources { gpu: Some(Gpu::find("h100").unwrap()), count, ..Resources::default() }
    }

    #[test]
    fn time_on_gpus_and_money_at_a_price_are_budgets() {
        let week = Resources { hours: Some(168.0), ..h100(Some(8)) };
        let flops = week.flops(false).unwrap().unwrap();
        assert!((flops / 1.91484e21 - 1.0).abs() < 1e-5);
        let money = Resources { budget: Some(2688.0), price: Some(2.0), ..h100(None) };
        assert!((money.flops(false).unwrap().unwrap() / flops - 1.0).abs() < 1e-12);
        assert_eq!(h100(Some(8)).flops(false).unwrap(), None);
    }

    #[test]
    fn half_of_a_pair_and_two_pairs_are_errors() {
        let both =
            Resources { hours: Some(1.0), budget: Some(1.0), price: Some(1.0), ..h100(None) };
        assert!(matches!(both.flops(false), Err(LawError::TwoWishes { .. })));
        let no_price = Resources { budget: Some(1.0), ..h100(None) };
        assert!(no_price.flops(false).unwrap_err().to_string().contains("--price"));
        let no_gpu = Resources { hours: Some(1.0), ..Resources::default() };
        assert!(no_gpu.flops(false).unwrap_err().to_string().contains("--gpu"));
    }

    #[test]
    fn a_deadline_says_how_many_gpus() {
        // Llama 2 7B's 6.065e21 at its optimum: 22.2 days on 8 H100.
        let deadline = Resources { hours: Some(24.0 * 12.0), ..h100(None) };
        assert_eq!(deadline.flops(true).unwrap(), None);
        assert_eq!(deadline.gpus_for_deadline(6.06515e21).unwrap(), Some(16));
        let long = Resources { hours: Some(24.0 * 90.0), ..h100(None) };
        assert_eq!(long.gpus_for_deadline(6.06515e21).unwrap(), Some(2));
    }
}
