//! Linear layers inside operations of several layers, in training: their products with what adapts
//! them, and the gradients of both.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use puna_kernels::{
    Elements, Factors, MatRef, RoundedRows, gemm_sum_new, rounds_products, takes_rounded,
};

use crate::ops::{LowRank, Rows, as_words, input_gradient, weight_gradient, with_right};
use crate::value::Sum;
use crate::{NnError, Weight};

/// A linear layer without a bias, and the thin matrices that adapt it.
#[derive(Debug, Clone)]
pub struct Projection {
    /// `[out, in]`
    pub weight: Arc<Weight>,
    /// Trained in its place, if there are any.
    pub low_rank: Option<LowRank>,
}

/// What a layer multiplies: its input, and that behind the first thin matrix.
pub(crate) struct Inputs {
    x: Arc<Rows>,
    h: Option<Rows>,
}

impl Projection {
    pub(crate) fn check(&self, width: usize, out: usize, tokens: usize) -> Result<(), NnError> {
        for (what, expected, got) in [
            ("width of a weight", width, self.weight.cols()),
            ("rows of a weight", out, self.weight.rows()),
        ] {
            if expected != got {
                return Err(NnError::Shape { what, expected, got });
            }
        }
        self.low_rank.as_ref().map_or(Ok(()), |of| of.check((tokens, width), (tokens, out)))
    }

    pub(crate) fn inputs(
        &self,
        x: Arc<Rows>,
        tokens: usize,
        elements: Elements,
    ) -> Result<Inputs, NnError> {
        let h = self.low_rank.as_ref().map(|of| x.with(|x| of.inner(x, tokens, elements)));
        Ok(Inputs { h: h.transpose()?.transpose()?, x })
    }

    /// Lends the terms of `x Wᵀ + h Bᵀ`.
    pub(crate) fn terms<T>(
        &self,
        of: &Inputs,
        elements: Elements,
        f: impl FnOnce(&[Factors<'_>]) -> T,
    ) -> Result<T, NnError> {
        with_right(&self.weight, elements, |_, w| {
            of.x.with(|x| {
                let product = (x, w, self.weight.cols());
                let (Some(h), Some(thin)) = (&of.h, &self.low_rank) else {
                    return Ok(f(&[product]));
                };
                h.with(|h| {
                    let (b, rank) = (thin.b.values(), thin.rank());
                    f(&[product, (h, MatRef::rows(&b, rank).t().into(), rank)])
                })
            })?
        })?
    }

    /// Whether products take the weight as it is stored; others are written out as float32 for each.
    fn is_lent(&self, elements: Elements) -> bool {
        match &*self.weight {
            Weight::Trained(_) => true,
            Weight::Packed(_) => takes_rounded(elements),
            weight => as_words(weight, elements).is_some(),
        }
    }

    /// Adds the gradients of what is trained; returns that of `h`.
    pub(crate) fn gradients(
        &self,
        of: &Inputs,
        (dy, tokens): (&Rows, usize),
        elements: Elements,
    ) -> Result<Option<Rows>, NnError> {
        dy.with(|dy| {
            if let Weight::Trained(parameter) = &*self.weight {
                of.x.with(|x| weight_gradient(parameter, dy, (x, tokens), elements))?;
            }
            let thin = self.low_rank.as_ref().zip(of.h.as_ref());
            thin.map(|(thin, h)| thin.backward((&of.x, h), (dy, tokens), elements)).transpose()
        })?
    }

    /// Lends the terms of `dx = dy W + dh A`.
    pub(crate) fn terms_back<T>(
        &self,
        (dy, d_h): (&Rows, &Option<Rows>),
        elements: Elements,
        f: impl FnOnce(&[Factors<'_>]) -> T,
    ) -> Result<T, NnError> {
        with_right(&self.weight, elements, |w, _| {
            dy.with(|dy| {
                let product = (dy, w, self.weight.rows());
                let (Some(d_h), Some(thin)) = (d_h, &self.low_rank) else {
                    return Ok(f(&[product]));
                };
                d_h.with(|d_h| {
                    let (a, width) = (thin.a.values(), self.weight.cols());
                    f(&[product, (d_h, MatRef::rows(&a, width).into(), thin.rank())])
                })
            })?
        })?
    }
}

/// The gradient `[N, in]` of the input of some layers, of those of their outputs and thin products, with
/// what the input had before.
///
/// One sum of products if no weight has to be written out for it: else that is done for one after
/// another, so that they are not in memory at the same time.
pub(crate) fn input_gradient_of(
    parts: &[(&Projection, &Rows, &Option<Rows>)],
    shape: (usize, usize),
    mut before: Option<Sum>,
    elements: Elements,
) -> Result<Option<Sum>, NnError> {
    if parts.iter().all(|(part, ..)| part.is_lent(elements)) {
        return all_terms(parts, &[], (shape, elements), before).map(Some);
    }
    for (part, dy, d_h) in parts {
        let add = |terms: &[Factors<'_>]| input_gradient(shape, terms, before.take(), elements);
        before = Some(part.terms_back((dy, d_h), elements, add)??);
    }
    Ok(before)
}

/// The sum of some terms and those of some layers.
fn all_terms(
    parts: &[(&Projection, &Rows, &Option<Rows>)],
    terms: &[Factors<'_>],
    (shape, elements): ((usize, usize), Elements),
    before: Option<Sum>,
) -> Result<Sum, NnError> {
    let Some(((part, dy, d_h), rest)) = parts.split_first() else {
        return input_gradient(shape, terms, before, elements);
    };
    part.terms_back((dy, d_h), elements, |more| {
        all_terms(rest, &[terms, more].concat(), (shape, elements), before)
    })?
}

/// A sum of products, rounded where it ends if this machine does that.
pub(crate) fn product(
    shape: (usize, usize),
    terms: &[Factors<'_>],
    elements: Elements,
) -> Result<Rows, NnError> {
    if rounds_products(elements) {
        return Ok(Rows::Rounded(Arc::new(RoundedRows::product(shape, terms))));
    }
    Ok(Rows::Float(Tensor::from_vec(gemm_sum_new(shape, terms, elements), shape, &Device::Cpu)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ops::{linear_in_training, low_rank};
    use crate::{BlockWeight, Parameter, Precision, Value};
    use puna_kernels::BlockFormat;
    use puna_testkit::random_tensor;

    fn flat(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    pub(crate) fn parameter(seed: u64, shape: &[usize]) -> Arc<Parameter> {
        Arc::new(Parameter::new("p", shape, flat(&random_tensor(seed, shape))))
    }

    pub(crate) fn thin(seed: u64, (out, width): (usize, usize)) -> LowRank {
        let (a, b) = (parameter(seed, &[3, width]), parameter(seed + 1, &[out, 3]));
        LowRank { a, b, scale: 0.5 }
    }

    pub(crate) fn frozen(seed: u64, (out, width): (usize, usize)) -> Arc<Weight> {
        let values = flat(&random_tensor(seed, &[out, width]));
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let block = BlockWeight::new(BlockFormat::F32, out, width, Arc::new(bytes)).unwrap();
        Arc::new(Weight::Block(block))
    }

    impl Projection {
        /// The layer as operations of its own.
        pub(crate) fn alone(&self, x: &Value, precision: Precision) -> Value {
            let y = linear_in_training(x, &self.weight, precision).unwrap();
            match &self.low_rank {
                Some(of) => low_rank(x, y, of, precision).unwrap(),
                None => y,
            }
        }
    }

    /// Outputs and all gradients of two ways to compute the same are the same, up to a part of the
    /// largest value.
    pub(crate) fn are_alike(
        (x, f): (&Value, impl Fn(&Value) -> Value),
        (other_x, other): (&Value, impl Fn(&Value) -> Value),
        parts: &[Projection],
        bound: f32,
    ) {
        let (ours, theirs) = (results(&f(x), x, parts), results(&other(other_x), other_x, parts));
        assert_eq!(ours.len(), theirs.len());
        for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let largest = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= bound * largest, "{bound} {i}: {a} {b}");
            }
        }
    }

    fn results(y: &Value, x: &Value, parts: &[Projection]) -> Vec<Vec<f32>> {
        let seed = random_tensor(9, y.tensor().dims());
        let dx = flat(y.backward(seed).unwrap().of(x).unwrap());
        let mut all = vec![flat(y.tensor()), dx];
        for part in parts {
            let mut take = |p: &Parameter| {
                all.push(p.with_gradient(|g| g.unwrap().to_vec()));
                p.clear_gradient();
            };
            if let Weight::Trained(p) = &*part.weight {
                take(p);
            }
            if let Some(of) = &part.low_rank {
                take(&of.a);
                take(&of.b);
            }
        }
        all
    }
}
