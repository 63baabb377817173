//! Cross-entropy of the head's logits, without the logits: `loss = s Σ_n −log softmax(W x_n)[y_n]`,
//! over chunks of tokens, so that `[N, V]` never exists at once.
//!
//! Backward, within the same pass over a chunk: `dz = s (softmax(z) − onehot(y))`, `dx = dz W`,
//! `dW += dzᵀ x`. The loss ends the graph, so the gradient of the loss itself is 1 and nothing has to
//! be computed a second time (as in Liger's fused kernel, arXiv:2410.10989). With the z-loss
//! (arXiv:2204.02311) `dz` has the further term `2 c s log Z · softmax(z)`.
//!
//! With a consistency term (AdaMix, arXiv:2205.12410, equation 5) the rows are those of two passes
//! behind one another, and the term is how far the predictions of both are apart
//! ([`puna_kernels::consistency_rows`]); only the first pass has targets.

use std::borrow::Cow;
use std::cell::Cell;

use candle_core::{DType, Device, Tensor};
use puna_cuda::Operand;
use puna_kernels::{
    CrossEntropyRow, Elements, MatRef, PackedMatrix, Right, Write, consistency_rows,
    cross_entropy_row, gemm_sum, round_rows, takes_rounded,
};

use super::linear::{elements, on_device as weight_on_device, weight_gradient, with_right};
use super::with_f32;
use crate::device_products::{no_kernel, operand, product, write_product};
use crate::{NnError, Precision, Value, Weight};

/// Logits that exist at once; also how many tokens share one pass over the head's weight.
const LOGITS: usize = 1 << 24;

/// Logits that exist at once on a GPU.
const DEVICE_LOGITS: usize = 1 << 28;

/// Positions whose logits exist at once.
#[must_use]
pub fn positions_at_once(vocab: usize) -> usize {
    (LOGITS / vocab.max(1)).clamp(64, 1024)
}

/// The same on a GPU.
#[must_use]
pub fn device_positions_at_once(vocab: usize) -> usize {
    (DEVICE_LOGITS / vocab.max(1)).max(64)
}

/// What the loss is.
#[derive(Debug, Clone)]
pub struct CrossEntropy<'a> {
    /// The right next token of every position; `None` where no loss is taken.
    pub targets: &'a [Option<u32>],
    /// Factors of the targets' losses, not negative, one for each position; `None`: 1.
    pub weights: Option<&'a [f32]>,
    /// Factor of the sum of losses in the gradients: one over the number of targets of the whole
    /// step.
    pub scale: f32,
    /// Factor of the squared logarithm of the softmax's sum.
    pub z_loss: f32,
    /// Soft cap of the logits.
    pub softcap: Option<f32>,
    /// The second half of the rows is another pass over the first half's tokens, without targets, and
    /// this the factor of the divergence of both's predictions where the first has targets.
    pub consistency: Option<f32>,
    /// Arithmetic of the products.
    pub precision: Precision,
}

impl CrossEntropy<'_> {
    /// Rows of logits that a target has.
    fn passes(&self) -> usize {
        if self.consistency.is_some() { 2 } else { 1 }
    }
}

/// Sums over the targets.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossSum {
    /// Sum of the cross-entropies, in nats.
    pub loss: f64,
    /// Sum of the squared logarithms of the softmax's sums.
    pub z_squared: f64,
    /// Sum of the divergences of the predictions of two passes.
    pub divergence: f64,
    /// Number of targets.
    pub targets: usize,
    /// Sum over the targets of their batch's load-balancing loss, a mean over its mixtures of
    /// experts; 0 without any.
    pub balance: f64,
}

/// The losses of a batch, which a GPU may still be about to compute.
#[derive(Debug)]
pub struct Losses {
    known: LossSum,
    /// Cross-entropy and squared logarithm of every target, `[n, 2]` each.
    on_device: Vec<Tensor>,
}

impl Losses {
    /// Their sums; waits for what is not there yet.
    ///
    /// # Errors
    /// If a device refuses.
    pub fn sum(self) -> Result<LossSum, NnError> {
        let mut sum = self.known;
        for losses in self.on_device {
            for row in losses.flatten_all()?.to_vec1::<f32>()?.as_chunks::<2>().0 {
                sum.loss += f64::from(row[0]);
                sum.z_squared += f64::from(row[1]);
                sum.targets += 1;
            }
        }
        Ok(sum)
    }
}

impl std::ops::AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.loss += other.loss;
        self.z_squared += other.z_squared;
        self.divergence += other.divergence;
        self.targets += other.targets;
        self.balance += other.balance;
    }
}

/// The losses of a batch, and the gradient of
/// `scale · (loss + z_loss · z_squared + consistency · divergence)` by `x` if that is tracked; a trained
/// head then gets its gradient, too.
///
/// # Shapes
/// `x` `[N, C]` (behind the final norm), head `[V, C]` → gradient `[N, C]`
///
/// # Errors
/// If shapes do not agree or a target is outside the vocabulary.
pub fn cross_entropy(
    x: &Value,
    head: &Weight,
    of: &CrossEntropy<'_>,
) -> Result<(Losses, Option<Tensor>), NnError> {
    let (tokens, width) = x.tensor().dims2()?;
    let vocab = head.rows();
    if width != head.cols() {
        return Err(NnError::Shape {
            what: "width of the head",
            expected: head.cols(),
            got: width,
        });
    }
    if of.targets.len() != tokens {
        let got = of.targets.len();
        return Err(NnError::Shape { what: "targets", expected: tokens, got });
    }
    if let Some(got) = of.weights.map(<[f32]>::len).filter(|&len| len != tokens) {
        return Err(NnError::Shape { what: "weights of targets", expected: tokens, got });
    }
    if let Some(id) = of.targets.iter().flatten().copied().find(|&id| id as usize >= vocab) {
        return Err(NnError::TokenId { id, vocab });
    }
    if of.consistency.is_some() {
        let in_second = of.targets[tokens / 2..].iter().flatten().count();
        for (what, expected, got) in [
            ("rows of two passes", tokens / 2 * 2, tokens),
            ("targets of a second pass", 0, in_second),
        ] {
            if expected != got {
                return Err(NnError::Shape { what, expected, got });
            }
        }
    }
    if !x.tensor().device().is_cpu() {
        return on_device(x, head, of);
    }
    let mut dx = puna_kernels::zeros(if x.is_tracked() { tokens * width } else { 0 });
    let sum = with_right(head, elements(of.precision), |weight, transposed| {
        with_f32(x.tensor(), |x| chunks(x, (head, weight, transposed), of, &mut dx))
    })??;
    let dx = if dx.is_empty() {
        None
    } else {
        Some(Tensor::from_vec(dx, (tokens, width), &Device::Cpu)?)
    };
    Ok((Losses { known: sum, on_device: Vec::new() }, dx))
}

/// [`cross_entropy`] on a GPU, where the head's product and that of its gradient are cuBLAS's; its
/// arguments have been checked.
fn on_device(
    x: &Value,
    head: &Weight,
    of: &CrossEntropy<'_>,
) -> Result<(Losses, Option<Tensor>), NnError> {
    if of.consistency.is_some() || of.weights.is_some() {
        return Err(NnError::Tracked { op: "a loss with weights or two passes on this device" });
    }
    let device = x.tensor().device();
    let weight = weight_on_device(head, of.precision)?;
    let dtype = weight.dtype();
    let wanted: Vec<u32> =
        (0..of.targets.len()).filter(|&n| of.targets[n].is_some()).map(|n| n as u32).collect();
    let targets: Vec<u32> = of.targets.iter().copied().flatten().collect();
    let is_whole = wanted.len() == of.targets.len();
    let mut dx = match x.is_tracked() {
        true => Some(Tensor::zeros(x.tensor().shape(), DType::F32, device)?),
        false => None,
    };
    let mut losses = Vec::new();
    let all = operand(x.tensor(), dtype)?;
    let chunk = device_positions_at_once(head.rows());
    for (index, (places, targets)) in wanted.chunks(chunk).zip(targets.chunks(chunk)).enumerate() {
        let at = Tensor::new(places, device)?;
        let rows = match is_whole {
            true => all.narrow(0, index * chunk, places.len())?,
            false => all.index_select(&at, 0)?,
        }; // [n, C]
        let logits = product(Operand::rows(&rows), Operand::transposed(&weight))?; // [n, V]
        let targets = Tensor::new(targets, device)?;
        let loss = puna_cuda::LossRows { softcap: of.softcap, scale: of.scale, z_loss: of.z_loss };
        let wants = dx.is_some().then_some(dtype);
        let found = puna_cuda::cross_entropy(&logits, &targets, &loss, wants)?;
        let (loss, gradients) = found.ok_or_else(no_kernel)?;
        losses.push(loss);
        let (Some(d_logits), Some(dx)) = (gradients, &mut dx) else { continue };
        let d_rows = product(Operand::rows(&d_logits), Operand::rows(&weight))?; // [n, C]
        match is_whole {
            true => dx.slice_set(&d_rows, 0, index * chunk)?,
            false => *dx = dx.index_add(&at, &d_rows, 0)?,
        }
        if let Weight::Trained(parameter) = head {
            parameter.add_device_gradient(|dw, adds| {
                write_product(Operand::transposed(&d_logits), Operand::rows(&rows), dw, adds)
            })?;
        }
    }
    // Read when all of the pass has been begun: reading waits.
    Ok((Losses { known: LossSum::default(), on_device: losses }, dx))
}

fn chunks(
    x: &[f32],
    (head, weight, transposed): (&Weight, Right<'_>, Right<'_>),
    of: &CrossEntropy<'_>,
    dx: &mut [f32],
) -> LossSum {
    let (vocab, width, elements) = (head.rows(), head.cols(), elements(of.precision));
    // Positions without a target cost nothing; those of two passes lie together.
    let passes = of.passes();
    let wanted: Vec<usize> = (0..of.targets.len())
        .filter(|&n| of.targets[n].is_some())
        .flat_map(|n| (0..passes).map(move |pass| n + pass * of.targets.len() / 2))
        .collect();
    let chunk = positions_at_once(vocab) / passes * passes;
    let mut room = ROOM.take();
    let needed = chunk.min(wanted.len()) * vocab;
    if room.len() < needed {
        room = puna_kernels::zeros(needed);
    }
    let mut sum = LossSum::default();
    // Packing pays from three products on.
    let packed = match weight {
        Right::Matrix(weight) if wanted.len() > 2 * chunk => {
            Packed::new(weight, (vocab, width), elements, !dx.is_empty())
        }
        _ => Packed::default(),
    };
    let transposed = packed.forward.as_ref().map_or(transposed, Right::Packed);
    let weight = packed.backward.as_ref().map_or(weight, Right::Packed);
    for wanted in wanted.chunks(chunk) {
        let rows = gathered(x, wanted, width); // [n, C]
        let logits = &mut room[..wanted.len() * vocab]; // [n, V]
        let term = (MatRef::rows(&rows, width), transposed, width);
        gemm_sum((wanted.len(), vocab), &[term], (logits, vocab), Write::Set, elements);
        // Two products read the gradients: better rounded once.
        let rounded = takes_rounded(elements) && !dx.is_empty();
        sum += row_losses(logits, (wanted, vocab), of, rounded);
        if dx.is_empty() {
            continue;
        }
        let d_logits =
            if rounded { MatRef::rounded_rows(logits, vocab) } else { MatRef::rows(logits, vocab) };
        let multiply = |to: &mut [f32]| {
            let term = (d_logits, weight, vocab);
            gemm_sum((wanted.len(), width), &[term], (to, width), Write::Set, elements);
        };
        if let Some(run) = as_run(wanted) {
            multiply(&mut dx[run.start * width..run.end * width]);
        } else {
            let mut d_rows = puna_kernels::zeros(rows.len());
            multiply(&mut d_rows);
            for (&n, d) in wanted.iter().zip(d_rows.chunks_exact(width)) {
                dx[n * width..][..width].copy_from_slice(d);
            }
        }
        if let Weight::Trained(parameter) = head {
            let rows = (MatRef::rows(&rows, width), wanted.len());
            weight_gradient(parameter, d_logits, rows, elements);
        }
    }
    ROOM.set(room);
    sum
}

thread_local! {
    /// The logits of a chunk, for the next one: memory of this size, given back and taken again, comes
    /// as pages that the system fills with zeros.
    static ROOM: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The head's weight as both products want it, for all chunks; not where that would take much memory.
#[derive(Default)]
struct Packed {
    forward: Option<PackedMatrix>,
    backward: Option<PackedMatrix>,
}

/// Bytes of a packed head up to which it is kept.
const PACKED_BYTES: usize = 64 << 20;

impl Packed {
    fn new(
        weight: MatRef<'_>,
        (vocab, width): (usize, usize),
        elements: Elements,
        gradients: bool,
    ) -> Self {
        let pack = |b: MatRef<'_>, shape| PackedMatrix::new(b, shape, elements);
        let small = PackedMatrix::bytes((width, vocab), elements) <= PACKED_BYTES;
        Self {
            forward: small.then(|| pack(weight.t(), (width, vocab))),
            backward: (small && gradients).then(|| pack(weight, (vocab, width))),
        }
    }
}

/// Positions as a range, if they are one.
fn as_run(wanted: &[usize]) -> Option<std::ops::Range<usize>> {
    let (first, last) = (*wanted.first()?, *wanted.last()?);
    wanted.iter().copied().eq(first..last + 1).then_some(first..last + 1)
}

/// The rows of some positions; a copy only where some lie between them.
fn gathered<'a>(x: &'a [f32], wanted: &[usize], width: usize) -> Cow<'a, [f32]> {
    match as_run(wanted) {
        Some(run) => Cow::Borrowed(&x[run.start * width..run.end * width]),
        None => wanted.iter().flat_map(|&n| &x[n * width..][..width]).copied().collect(),
    }
}

/// Logits to their gradients, over the pool; `rounded`: as [`round_rows`] leaves them.
fn row_losses(
    logits: &mut [f32],
    (wanted, vocab): (&[usize], usize),
    of: &CrossEntropy<'_>,
    rounded: bool,
) -> LossSum {
    let passes = of.passes();
    let targets = wanted.len() / passes;
    let losses: Vec<std::sync::Mutex<(f32, f32, f32)>> =
        (0..targets).map(|_| Default::default()).collect();
    puna_kernels::for_each_chunk_mut(logits, passes * vocab, |first, logits| {
        let i = first / (passes * vocab);
        let target = of.targets[wanted[passes * i]].unwrap_or_default() as usize;
        let own = of.weights.map_or(1.0, |weights| weights[wanted[passes * i]]);
        let (weight, z_loss, softcap) = (own * of.scale, of.z_loss, of.softcap);
        let row = CrossEntropyRow { target, weight, z_loss, softcap };
        let (loss, log, divergence) = match of.consistency {
            Some(factor) => consistency_rows(logits.split_at_mut(vocab), &row, factor),
            None => {
                let (loss, log) = cross_entropy_row(logits, &row);
                (loss, log, 0.0)
            }
        };
        let loss = (own * loss, own.sqrt() * log, own * divergence);
        if rounded {
            round_rows(logits, vocab);
        }
        if let Ok(mut slot) = losses[i].lock() {
            *slot = loss;
        }
    });
    let mut sum = LossSum { targets, ..LossSum::default() };
    for slot in losses {
        let (loss, log, divergence) = slot.into_inner().unwrap_or_default();
        sum.loss += f64::from(loss);
        sum.z_squared += f64::from(log) * f64::from(log);
        sum.divergence += f64::from(divergence);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parameter;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};
    use std::sync::Arc;

    fn trained(w: &Tensor) -> (Arc<Parameter>, Weight) {
        let values = w.flatten_all().unwrap().to_vec1().unwrap();
        let parameter = Arc::new(Parameter::new("w", w.dims(), values));
        (Arc::clone(&parameter), Weight::Trained(parameter))
    }

    #[test]
    fn the_loss_of_a_zero_head_is_the_logarithm_of_the_vocabulary() {
        let (_, head) =
            trained(&Tensor::zeros((7, 3), candle_core::DType::F32, &Device::Cpu).unwrap());
        let (targets, precision) = ([Some(2), None, Some(6)], Precision::Exact);
        let of = CrossEntropy {
            targets: &targets,
            weights: None,
            scale: 1.0,
            z_loss: 0.0,
            softcap: None,
            consistency: None,
            precision,
        };
        let x = Value::constant(random_tensor(1, &[3, 3]));
        let (losses, dx) = cross_entropy(&x, &head, &of).unwrap();
        let sum = losses.sum().unwrap();
        assert_eq!(sum.targets, 2);
        assert!((sum.loss - 2.0 * 7f64.ln()).abs() < 1e-6);
        assert!(dx.is_none());
    }

    #[test]
    fn gradients_match_central_differences_with_z_loss_weights_cap_and_consistency() {
        let one = [Some(1), None, Some(4), Some(0), Some(4), None];
        let two = [Some(1), None, Some(4), None, None, None];
        for (z_loss, softcap, consistency) in [
            (0.0, None, None),
            (0.1, None, None),
            (0.1, Some(2.0), None),
            (0.0, None, Some(1.0)),
            (0.1, Some(2.0), Some(0.5)),
        ] {
            let targets = if consistency.is_some() { two } else { one };
            // Without and with factors of the targets.
            let weights = [0.5, 3.0, 2.0, 0.0, 1.0, 7.0];
            let weights = (z_loss > 0.0).then_some(&weights[..]);
            let run = |inputs: &[Tensor], leaf: bool| {
                let of = CrossEntropy {
                    targets: &targets,
                    weights,
                    scale: 0.5,
                    z_loss,
                    softcap,
                    consistency,
                    precision: Precision::Exact,
                };
                let (parameter, head) = trained(&inputs[1]);
                let x = inputs[0].clone();
                let x = if leaf { Value::leaf(x) } else { Value::constant(x) };
                let (losses, dx) = cross_entropy(&x, &head, &of).unwrap();
                let sum = losses.sum().unwrap();
                (sum, dx, parameter)
            };
            gradcheck_by(
                |inputs| {
                    let sum = run(inputs, false).0;
                    let divergence = f64::from(consistency.unwrap_or(0.0)) * sum.divergence;
                    let total = 0.5 * (sum.loss + f64::from(z_loss) * sum.z_squared + divergence);
                    Tensor::new(&[total as f32], &Device::Cpu)
                },
                |inputs, seed| {
                    let (_, dx, parameter) = run(inputs, true);
                    let gradient = parameter.with_gradient(|g| g.unwrap().to_vec());
                    let dw = Tensor::from_vec(gradient, inputs[1].shape(), &Device::Cpu)?;
                    let seed = f64::from(seed.to_vec1::<f32>()?[0]);
                    Ok(vec![Some((dx.unwrap() * seed)?), Some((dw * seed)?)])
                },
                &[random_tensor(2, &[6, 3]), random_tensor(3, &[6, 3])],
                // The loss is a float32 of order 5.
                GradTolerance { absolute: 1e-3, relative: 2e-3 },
            );
        }
    }
}
