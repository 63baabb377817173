//! Tensors that remember how gradients flow back, and the walk back.
//!
//! candle's own `backward()` fills a tensor of zeros for every argument of every op and adds to it
//! on one thread, and it returns the gradient of every weight as a tensor of its own; for a small
//! model on a CPU that costs as much as the products. Here the first gradient of a value is taken as
//! it is, sums run on the pool in the memory of one of their terms where nothing else sees that,
//! products add to what is there, trained weights keep their gradients themselves
//! ([`Parameter`](crate::Parameter)), and what an op saved is dropped as soon as its backward has
//! run. What has no backward of ours takes candle's ([`Value::by_candle`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Tensor, Var};

use puna_kernels::RoundedRows;

use crate::ops::with_f32;
use crate::{NnError, Parameter};

/// From the gradient of a result, and what its first argument has already, to the gradients of its
/// arguments, the first one with what it had; `None` for arguments without one.
type Backward = Box<dyn FnOnce(&Tensor, Option<Sum>) -> Result<Vec<Option<Sum>>, NnError> + Send>;

/// The gradient of a value, as far as it is known.
pub(crate) struct Sum {
    tensor: Tensor,
    /// Nothing else sees its memory.
    own: bool,
}

impl Sum {
    /// A tensor that was made for this.
    pub(crate) fn own(tensor: Tensor) -> Self {
        Self { tensor, own: true }
    }

    /// A tensor that others may see.
    pub(crate) fn shared(tensor: Tensor) -> Self {
        Self { tensor, own: false }
    }

    /// The tensor.
    pub(crate) fn into_tensor(self) -> Tensor {
        self.tensor
    }

    /// Whether it may be written to.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// Lends the values to be written to.
    ///
    /// # Errors
    /// If they are not contiguous float32 values on the CPU.
    pub(crate) fn write(self, f: impl Fn(&mut [f32])) -> Result<Self, NnError> {
        self.tensor.inplace_op1(&Writing(f))?;
        Ok(self)
    }

    /// The tensor, if kernels of a GPU may write to it; else the sum as it was.
    pub(crate) fn writable_on_device(self) -> Result<Tensor, Self> {
        let x = &self.tensor;
        let is_float = x.dtype() == DType::F32 && x.is_contiguous() && !x.device().is_cpu();
        if self.own && is_float { Ok(self.tensor) } else { Err(self) }
    }

    /// `self + other`.
    pub(crate) fn plus(self, other: Sum) -> Result<Self, NnError> {
        let (a, b) = if self.own { (self, other) } else { (other, self) };
        let on_cpu = a.tensor.device().is_cpu() && a.tensor.is_contiguous();
        if !(a.own && on_cpu && a.tensor.dims() == b.tensor.dims()) {
            return Ok(Self::own(add(&a.tensor, &b.tensor)?));
        }
        with_f32(&b.tensor, |b| a.write(|a| puna_kernels::add_in_place(a, b)))?
    }
}

/// Lends a tensor's values to be written to.
struct Writing<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for Writing<F> {
    fn name(&self) -> &'static str {
        "writing"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("only contiguous float32 values can be written to")
        };
        (self.0)(&mut values[start..end]);
        Ok(())
    }
}

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
    /// Its rows as products with bfloat16 take them, once one has asked for them.
    rounded: Arc<OnceLock<Arc<RoundedRows>>>,
    /// The same on a GPU.
    words: Arc<OnceLock<Tensor>>,
    /// The tensor's memory was made by the op whose result this is.
    fresh: bool,
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
    fn new(tensor: Tensor, node: Option<Arc<Node>>) -> Self {
        Self { tensor, node, rounded: Arc::default(), words: Arc::default(), fresh: false }
    }

    /// A tensor that no gradient is wanted of.
    #[must_use]
    pub fn constant(tensor: Tensor) -> Self {
        Self::new(tensor.detach(), None)
    }

    /// A tensor whose gradient is wanted. Trained weights get theirs only from values that come
    /// from a leaf.
    #[must_use]
    pub fn leaf(tensor: Tensor) -> Self {
        Self::new(tensor.detach(), Some(Node::new(Vec::new(), None)))
    }

    /// The result of an op on `arguments`, whose `backward` is kept if one of them is tracked. The
    /// gradients that it gives are tensors that it made.
    pub(crate) fn derived(
        tensor: Tensor,
        arguments: &[&Value],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, NnError> + Send + 'static,
    ) -> Self {
        Self::with_backward(tensor, arguments, backward, Sum::own)
    }

    /// [`Self::derived`] whose gradients others may see.
    pub(crate) fn derived_sharing(
        tensor: Tensor,
        arguments: &[&Value],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, NnError> + Send + 'static,
    ) -> Self {
        Self::with_backward(tensor, arguments, backward, Sum::shared)
    }

    fn with_backward(
        tensor: Tensor,
        arguments: &[&Value],
        backward: impl FnOnce(&Tensor) -> Result<Vec<Option<Tensor>>, NnError> + Send + 'static,
        sum: fn(Tensor) -> Sum,
    ) -> Self {
        Self::derived_adding(tensor, arguments, move |dy, before| {
            let gradients = backward(dy)?.into_iter();
            let mut sums: Vec<Option<Sum>> = gradients.map(|gradient| gradient.map(sum)).collect();
            if let (Some(before), Some(first)) = (before, sums.first_mut()) {
                *first = Some(match first.take() {
                    None => before,
                    Some(gradient) => gradient.plus(before)?,
                });
            }
            Ok(sums)
        })
    }

    /// [`Self::derived`] whose backward adds to what its first argument has already.
    pub(crate) fn derived_adding(
        tensor: Tensor,
        arguments: &[&Value],
        backward: impl FnOnce(&Tensor, Option<Sum>) -> Result<Vec<Option<Sum>>, NnError>
        + Send
        + 'static,
    ) -> Self {
        if arguments.iter().all(|argument| argument.node.is_none()) {
            return Self::new(tensor, None);
        }
        let arguments = arguments.iter().map(|argument| argument.node.clone()).collect();
        Self::new(tensor, Some(Node::new(arguments, Some(Box::new(backward)))))
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
        Ok(Self::derived_sharing(y, arguments, move |dy| {
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

    /// The rows `[N, C]` rounded to bfloat16: the same for all products that take them.
    pub(crate) fn rounded(&self) -> Result<Arc<RoundedRows>, NnError> {
        if let Some(rounded) = self.rounded.get() {
            return Ok(Arc::clone(rounded));
        }
        let (_, cols) = self.tensor.dims2()?;
        let rounded = with_f32(&self.tensor, |x| Arc::new(RoundedRows::new(x, cols)))?;
        Ok(Arc::clone(self.rounded.get_or_init(|| rounded)))
    }

    /// The tensor as products of some type on a GPU take it.
    pub(crate) fn operand(&self, dtype: DType) -> Result<Tensor, NnError> {
        if self.tensor.dtype() == dtype {
            return Ok(self.tensor.contiguous()?);
        }
        if dtype != DType::BF16 {
            return Ok(self.tensor.to_dtype(dtype)?);
        }
        if let Some(words) = self.words.get() {
            return Ok(words.clone());
        }
        let words = puna_cuda::round(&self.tensor.contiguous()?)?;
        Ok(self.words.get_or_init(|| words).clone())
    }

    /// This value, of which the caller knows that its op made the tensor and does not keep it.
    pub(crate) fn fresh(self) -> Self {
        Self { fresh: true, ..self }
    }

    /// The tensor to be written to: itself if it is fresh and no other value has it, else a copy.
    pub(crate) fn take_or_copy(&self) -> Result<Sum, NnError> {
        if self.fresh && Arc::strong_count(&self.rounded) == 1 && self.tensor.is_contiguous() {
            return Ok(Sum::own(self.tensor.clone()));
        }
        Ok(Sum::own(self.tensor.copy()?))
    }

    /// A parameter's values, which get their gradient there.
    ///
    /// # Errors
    /// If there is no memory for a copy.
    pub fn of_parameter(parameter: &Arc<Parameter>) -> Result<Self, NnError> {
        let parameter = Arc::clone(parameter);
        if let Some(tensor) = parameter.device_operand(DType::F32)? {
            let backward: Backward = Box::new(move |gradient, _| {
                parameter.add_device_gradient(|sum, adds| {
                    let gradient = if adds { (sum + gradient)? } else { gradient.contiguous()? };
                    Ok(sum.slice_set(&gradient, 0, 0)?)
                })?;
                Ok(Vec::new())
            });
            return Ok(Self::new(tensor, Some(Node::new(Vec::new(), Some(backward)))));
        }
        let tensor = Tensor::from_slice(&parameter.values(), parameter.shape(), &Device::Cpu)?;
        let backward: Backward = Box::new(move |gradient, _| {
            with_f32(gradient, |gradient| {
                parameter.add_to_gradient(|sum| puna_kernels::add_in_place(sum, gradient));
            })?;
            Ok(Vec::new())
        });
        Ok(Self::new(tensor, Some(Node::new(Vec::new(), Some(backward)))))
    }

    /// `self + other`.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&self, other: &Value) -> Result<Self, NnError> {
        let sum = add(&self.tensor, &other.tensor)?;
        let both = |dy: &Tensor| Ok(vec![Some(dy.clone()), Some(dy.clone())]);
        Ok(Self::derived_sharing(sum, &[self, other], both))
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
            pending.insert(node.id, (Arc::clone(node), Sum::shared(seed)));
        }
        while let Some((id, (node, Sum { tensor: gradient, .. }))) = pending.pop_last() {
            let backward = node.backward.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(backward) = backward else {
                if !node.arguments.is_empty() {
                    return Err(NnError::WalkedTwice);
                }
                leaves.insert(id, gradient);
                continue;
            };
            let first = node.arguments.first().and_then(Option::as_ref);
            let before = first.and_then(|first| pending.remove(&first.id)).map(|(_, sum)| sum);
            for (argument, gradient) in node.arguments.iter().zip(backward(&gradient, before)?) {
                let (Some(argument), Some(gradient)) = (argument, gradient) else { continue };
                let sum = match pending.remove(&argument.id) {
                    None => gradient,
                    Some((_, other)) => gradient.plus(other)?,
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
        let float = |x: &Tensor| x.to_dtype(DType::F32)?.contiguous();
        let (a, b) = (float(a)?, float(b)?);
        return match puna_cuda::add(&a, &b)? {
            Some(sum) => Ok(sum),
            None => Ok((a + b)?),
        };
    }
    if a.dims() != b.dims() {
        let (expected, got) = (a.elem_count(), b.elem_count());
        return Err(NnError::Shape { what: "terms of a sum", expected, got });
    }
    let sum = with_f32(a, |a| with_f32(b, |b| puna_kernels::add_new(a, b)))??;
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
