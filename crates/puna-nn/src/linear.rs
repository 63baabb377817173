//! `y = x Wᵀ + b`: the only matrix multiplication of the model.

use puna_kernels::Output;

use crate::workspace::apply;
use crate::{NnError, Precision, Slot, Vector, Weight, Workspace};
use std::sync::{Arc, OnceLock};

/// A linear layer over any stored form of its weight.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<Weight>,
    bias: Option<Vector>,
    streamed: Option<Arc<Streamed>>,
    slot: Option<Slot>,
}

/// Makes the form of a weight that streams; `None` where there is none, or no memory for it.
pub type Stream = Box<dyn Fn(&Weight) -> Option<Weight> + Send + Sync>;

/// The form of a weight for products with few tokens, made when the first of them comes: a prompt
/// reads the weights once and is as quick on rows as the file has them, so it need not wait for a
/// copy in memory, which takes longer than the prompt; a step after a step does not want to live
/// without. The results are the same bits.
struct Streamed {
    weight: OnceLock<Option<Arc<Weight>>>,
    stream: Stream,
    /// Whether products with many tokens ask for it, too.
    always: bool,
}

impl std::fmt::Debug for Streamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Streamed({:?})", self.weight.get())
    }
}

/// Up to so many tokens a product is worth the streamed form.
const FEW_TOKENS: usize = 8;

impl Linear {
    /// A layer with weight `[out, in]`, which others may share (a tied head), and bias `[out]`.
    #[must_use]
    pub fn new(weight: Arc<Weight>, bias: Option<Vector>) -> Self {
        Self { weight, bias, streamed: None, slot: None }
    }

    /// The same layer at a place of the decoder, by which adapters find it.
    #[must_use]
    pub fn at(self, slot: Slot) -> Self {
        Self { slot: Some(slot), ..self }
    }

    /// Its place.
    #[must_use]
    pub fn slot(&self) -> Option<Slot> {
        self.slot
    }

    /// The same layer, whose weight gets another form when it first meets few tokens.
    #[must_use]
    pub fn streamed_by(self, stream: Stream) -> Self {
        let streamed = Streamed { weight: OnceLock::new(), stream, always: false };
        Self { streamed: Some(Arc::new(streamed)), ..self }
    }

    /// The same layer, whose weight gets another form when it is first needed: for one whose bytes would
    /// have to be made all the same.
    #[must_use]
    pub fn made_by(self, make: Stream) -> Self {
        let streamed = Streamed { weight: OnceLock::new(), stream: make, always: true };
        Self { streamed: Some(Arc::new(streamed)), ..self }
    }

    /// The form of the weight for a product with some tokens.
    pub(crate) fn weight_for(&self, tokens: usize) -> &Arc<Weight> {
        let Some(streamed) = &self.streamed else { return &self.weight };
        let made = if streamed.always || tokens <= FEW_TOKENS {
            let make = || (streamed.stream)(&self.weight).map(Arc::new);
            Some(streamed.weight.get_or_init(make))
        } else {
            streamed.weight.get()
        };
        made.and_then(Option::as_ref).unwrap_or(&self.weight)
    }

    /// The weight as it was loaded.
    #[must_use]
    pub fn weight(&self) -> &Arc<Weight> {
        &self.weight
    }

    /// The weight, to be replaced by one of its shape.
    pub fn weight_mut(&mut self) -> &mut Arc<Weight> {
        self.streamed = None;
        &mut self.weight
    }

    /// The bias, to be replaced by one of its length.
    pub fn bias_mut(&mut self) -> Option<&mut Vector> {
        self.bias.as_mut()
    }

    /// The bias, `[out]`.
    #[must_use]
    pub fn bias(&self) -> Option<&Vector> {
        self.bias.as_ref()
    }

    /// [`Linear::forward`] on slices: `out = …` or `out += …`, `[N, out]`.
    ///
    /// # Errors
    /// If the widths do not agree or the weight is a tensor.
    pub fn infer(
        &self,
        x: &[f32],
        out: Output<'_>,
        ws: &mut Workspace,
        precision: Precision,
    ) -> Result<(), NnError> {
        apply(x, &mut ws.buffers, &mut [(self, out)], precision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockWeight;
    use puna_kernels::BlockFormat;

    #[test]
    fn a_form_is_made_once_and_by_the_products_that_it_is_for() {
        let weight = || {
            let block = BlockWeight::new(BlockFormat::F32, 1, 1, Arc::new(vec![0; 4]));
            Arc::new(Weight::Block(block.expect("one value")))
        };
        let make = |weight: &Weight| Some(weight.clone());
        let many = FEW_TOKENS + 1;

        let streamed = Linear::new(weight(), None).streamed_by(Box::new(make));
        assert!(Arc::ptr_eq(streamed.weight_for(many), streamed.weight()));
        let made = Arc::clone(streamed.weight_for(1));
        assert!(!Arc::ptr_eq(&made, streamed.weight()));
        assert!(Arc::ptr_eq(streamed.weight_for(many), &made));

        let layer = Linear::new(weight(), None).made_by(Box::new(make));
        let made = Arc::clone(layer.weight_for(many));
        assert!(!Arc::ptr_eq(&made, layer.weight()));
        assert!(Arc::ptr_eq(layer.weight_for(1), &made));

        let none = Linear::new(weight(), None).made_by(Box::new(|_| None));
        assert!(Arc::ptr_eq(none.weight_for(many), none.weight()));
    }
}
