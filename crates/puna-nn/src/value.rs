//! Tensors that remember how gradients flow back, and the walk back.
//!
//! candle's own `backward()` fills a tensor of zeros for every argument of every op and adds to it
//! on one thread, and it returns the gradient of every weight as a tensor of its own; for a small
//! model on a CPU that costs as much as the products. Here the first gradient of a value is taken as
//! it is, sums run on the pool, trained weights keep their gradients themselves
//! ([`Parameter`](crate::Parameter)), and what an op saved is dropped as soon as its backward has
//! run. What has no backward of ours takes candle's ([`Value::by_candle`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor, Var};

use crate::NnError;
use crate::ops::with_f32;

/// From the gradient of a result to those of its arguments; `None` for arguments without one.
type Backward = Box<dyn FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, NnError> + Send>;

/// Ascending with creation: an argument's is below its results'.
static NEXT: AtomicU64 = AtomicU64::new(0);

struct Node {
    id: u64,
    arguments: Vec<Option<Arc<Node>>>,
    /// Taken when it runs, so that what it saved is dropped then; `None` of a leaf.
    backward: Mutex<Option<Backward>>,
}

/// A tensor, and how gradients flow back from it, if they do.
#[derive(Clone)]
pub struct Value {
    tensor: Tensor,
    node: Option<Arc<Node>>,
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if self.node.is_some() { "tracked" } else { "constant" };
        write!(f, "Value({:?}, {kind})", self.tensor.shape())
    }
}

impl From<Tensor> for Value {
    fn from(tensor: Tensor) -> Self {
        Self::constant(tensor)
    }
}

impl Value {
    /// A tensor that no gradient is wanted of.
    #[must_use]
    pub fn constant(tensor: Tensor) -> Self {
        Self { tensor: tensor.detach(), node: None }
    }

    /// A tensor whose gradient is wanted. Trained weights get theirs only from values that come
    /// from a leaf.
    #[must_use]
    pub fn leaf(tensor: Tensor) -> Self {
        Self { tensor: tensor.detach(), node: Some(Node::new(Vec::new(), None)) }
    }

    /// The result of an op on `arguments`, whose `backward` is kept if one of them is tracked.
    pub(crate) fn derived(
        tensor: Tensor,
        arguments: &[&Value],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, NnError> + Send + 'static,
    ) -> Self {
        if arguments.iter().all(|argument| argument.node.is_none()) {
            return Self { tensor, node: None };
        }
        let arguments = arguments.iter().map(|argument| argument.node.clone()).collect();
        Self { tensor, node: Some(Node::new(arguments, Some(Box::new(backward)))) }
    }

    /// The result of candle operations; backward runs them anew and takes candle's gradients.
    ///
    /// # Errors
    /// If the operations fail.
    pub fn by_candle(
        arguments: &[&Value],
        f: impl Fn(&[Tensor]) -> candle_core::Result<Tensor> + Send + 'static,
    ) -> Result<Self, NnError> {
        let tensors: Vec<Tensor> = arguments.iter().map(|a| a.tensor.clone()).collect();
        let y = f(&tensors)?;
        Ok(Self::derived(y, arguments, move |dy| {
            let vars: Vec<Var> = tensors.iter().map(Var::from_tensor).collect::<Result<_, _>>()?;
            let tracked: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
            let gradients = (f(&tracked)? * dy)?.sum_all()?.backward()?;
            Ok(vars.iter().map(|var| gradients.get(var).cloned()).collect())
        }))
    }

    /// The tensor.
    #[must_use]
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether gradients flow back from it.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// `self + other`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&self, other: &Value) -> Result<Self, NnError> {
        let sum = add(&self.tensor, &other.tensor)?;
        Ok(Self::derived(sum, &[self, other], |dy| Ok(vec![Some(dy.clone()), Some(dy.clone())])))
    }

    /// Walks back from this value, whose own gradient is `seed`; what was saved on the way is gone
    /// then. Trained weights add theirs to their [`Parameter`](crate::Parameter)s; those of leaves
    /// are returned.
    ///
    /// # Errors
    /// If an op's backward fails, or the graph was walked before.
    pub fn backward(&self, seed: Tensor) -> Result<Gradients, NnError> {
        let mut pending = BTreeMap::new();
        let mut leaves = HashMap::new();
        if let Some(node) = &self.node {
            pending.insert(node.id, (Arc::clone(node), seed));
        }
        while let Some((id, (node, gradient))) = pending.pop_last() {
            let backward = node.backward.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(backward) = backward else {
                if !node.arguments.is_empty() {
                    return Err(NnError::WalkedTwice);
                }
                leaves.insert(id, gradient);
                continue;
            };
            let gradients = backward(&gradient)?;
            for (argument, gradient) in node.arguments.iter().zip(gradients) {
                let (Some(argument), Some(gradient)) = (argument, gradient) else { continue };
                let sum = match pending.remove(&argument.id) {
                    None => gradient,
                    Some((_, other)) => add(&other, &gradient)?,
                };
                pending.insert(argument.id, (Arc::clone(argument), sum));
            }
        }
        Ok(Gradients { leaves })
    }
}

impl Node {
    fn new(arguments: Vec<Option<Arc<Node>>>, backward: Option<Backward>) -> Arc<Self> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, arguments, backward: Mutex::new(backward) })
    }
}

/// Gradients of leaves.
#[derive(Debug)]
pub struct Gradients {
    leaves: HashMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf, if it had any influence.
    #[must_use]
    pub fn of(&self, leaf: &Value) -> Option<&Tensor> {
        self.leaves.get(&leaf.node.as_ref()?.id)
    }
}

/// `a + b`, over the pool where both are on the CPU.
fn add(a: &Tensor, b: &Tensor) -> Result<Tensor, NnError> {
    if !a.device().is_cpu() {
        return Ok((a + b)?);
    }
    if a.dims() != b.dims() {
        let (expected, got) = (a.elem_count(), b.elem_count());
        return Err(NnError::Shape { what: "terms of a sum", expected, got });
    }
    let mut sum = puna_kernels::zeros(a.elem_count());
    with_f32(a, |a| with_f32(b, |b| puna_kernels::add(a, b, &mut sum)))??;
    Ok(Tensor::from_vec(sum, a.shape(), &Device::Cpu)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};

    /// [`puna_testkit::gradcheck`] of a function of values.
    #[track_caller]
    pub(crate) fn gradcheck(
        f: impl Fn(&[Value]) -> Result<Value, NnError>,
        inputs: &[Tensor],
        tolerance: GradTolerance,
    ) {
        let forward = |inputs: &[Tensor]| {
            let values: Vec<Value> = inputs.iter().cloned().map(Value::constant).collect();
            Ok(f(&values).map_err(candle_core::Error::wrap)?.tensor().clone())
        };
        let backward = |inputs: &[Tensor], seed: &Tensor| {
            let values: Vec<Value> = inputs.iter().cloned().map(Value::leaf).collect();
            let y = f(&values).map_err(candle_core::Error::wrap)?;
            let gradients = y.backward(seed.clone()).map_err(candle_core::Error::wrap)?;
            Ok(values.iter().map(|value| gradients.of(value).cloned()).collect())
        };
        gradcheck_by(forward, backward, inputs, tolerance);
    }

    #[test]
    fn a_value_used_twice_gets_the_sum_of_both_gradients() {
        gradcheck(
            |x| {
                let square = Value::by_candle(&[&x[0]], |x| x[0].sqr())?;
                square.add(&x[0])?.add(&x[1])
            },
            &[random_tensor(1, &[2, 3]), random_tensor(2, &[2, 3])],
            GradTolerance::default(),
        );
    }

    #[test]
    fn constants_have_no_gradient_and_a_graph_is_walked_once() {
        let (a, b) = (Value::leaf(random_tensor(1, &[2])), Value::constant(random_tensor(2, &[2])));
        let sum = a.add(&b).unwrap();
        let gradients = sum.backward(random_tensor(3, &[2])).unwrap();
        assert!(gradients.of(&a).is_some() && gradients.of(&b).is_none());
        assert!(matches!(sum.backward(random_tensor(3, &[2])), Err(NnError::WalkedTwice)));
        assert!(!b.add(&b).unwrap().is_tracked());
    }
}
