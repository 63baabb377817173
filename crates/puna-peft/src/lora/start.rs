//! How LoRA's matrices begin: peft's `init_lora_weights`.

use puna_nn::ops::with_f32;
use puna_nn::{NnError, Weight};
use serde_json::Value;

use crate::PeftError;
use crate::init::{Random, seed_of};
use crate::svd::truncated_svd;

/// A way to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// `true`: `A` uniform as PyTorch's linear layers have it, `B` zero.
    Uniform,
    /// `false`: both uniform, so that the adapter changes the model at once; for tests.
    BothRandom,
    /// `gaussian`: `A` normal with standard deviation `1 / r`, `B` zero.
    Gaussian,
    /// `pissa`, `pissa_niter_N` (arXiv:2404.02948): the largest singular values and their vectors,
    /// which the base is then without.
    Pissa { iterations: usize },
    /// `loftq` (arXiv:2310.08659): what quantization has taken from the base.
    LoftQ,
    /// `orthogonal`, `eva`: ways that are not here, and that files need not know.
    NotHere,
}

/// Iterations of `pissa`, which peft does by a whole SVD.
const PISSA_ITERATIONS: usize = 16;

/// What can be asked for.
const KNOWN: &str = "true, false, gaussian, pissa, pissa_niter_N or loftq";

impl Start {
    pub(super) fn parse(value: &Value) -> Result<Self, PeftError> {
        let unknown = || PeftError::Setting {
            key: "init_lora_weights",
            value: value.to_string(),
            expected: KNOWN.to_owned(),
        };
        Ok(match value {
            Value::Null | Value::Bool(true) => Start::Uniform,
            Value::Bool(false) => Start::BothRandom,
            Value::String(name) => match name.to_lowercase().as_str() {
                "gaussian" => Start::Gaussian,
                "pissa" => Start::Pissa { iterations: PISSA_ITERATIONS },
                "loftq" => Start::LoftQ,
                "orthogonal" | "eva" => Start::NotHere,
                other => match other.strip_prefix("pissa_niter_").map(str::parse) {
                    Some(Ok(iterations)) => Start::Pissa { iterations },
                    // olora and corda change the base in ways that a file does not tell.
                    _ => return Err(unknown()),
                },
            },
            _ => return Err(unknown()),
        })
    }

    /// Random `A` `[R, in]` and `B` `[out, R]`; `swapped`: those of an embedding, whose `A` is the zero
    /// one.
    ///
    /// # Errors
    /// If they begin as something else.
    pub(super) fn random(
        self,
        shapes: ([usize; 2], [usize; 2]),
        swapped: bool,
        random: &mut Random,
    ) -> Result<(Vec<f32>, Vec<f32>), PeftError> {
        let (rank, width) = (shapes.0[0], shapes.0[1]);
        let (a, b) = (rank * width, shapes.1[0] * rank);
        // kaiming_uniform_(a = √5), as peft and LoRA's own code have it.
        let uniform = |random: &mut Random, len, fan_in: usize| {
            random.uniform(len, 1.0 / (fan_in as f32).sqrt())
        };
        let (value, expected) = match (self, swapped) {
            (Start::Uniform, false) => return Ok((uniform(random, a, width), vec![0.0; b])),
            (Start::Gaussian, false) => {
                return Ok((random.normal(a, 1.0 / rank as f32), vec![0.0; b]));
            }
            (Start::BothRandom, false) => {
                return Ok((uniform(random, a, width), uniform(random, b, rank)));
            }
            (Start::BothRandom, true) => return Ok((random.normal(a, 1.0), random.normal(b, 1.0))),
            (Start::Uniform | Start::Gaussian, true) => {
                return Ok((vec![0.0; a], random.normal(b, 1.0)));
            }
            (Start::Pissa { .. }, _) => ("pissa", "targets without the embedding"),
            (Start::LoftQ, _) => (
                "loftq",
                "the weights as they were before quantization beside the model (loftq_from)",
            ),
            (Start::NotHere, _) => ("of another library", KNOWN),
        };
        let (value, expected) = (value.to_owned(), expected.to_owned());
        Err(PeftError::Setting { key: "init_lora_weights", value, expected })
    }
}

/// `A` `[R, in]` and `B` `[out, R]` with `s B A` the best approximation of a matrix by rank `R`:
/// `A = √(S / s) Vᵀ`, `B = U √(S / s)` (PiSSA, eq. 2 and 3, and LoftQ, eq. 9). Always the same for the
/// same matrix and path, so that a file of a run with PiSSA can be continued.
pub(super) fn leading(
    dense: &[f32],
    (out, width): (usize, usize),
    (rank, scale): (usize, f32),
    iterations: usize,
    path: &str,
) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(seed_of(path));
    let svd = truncated_svd(dense, (out, width), rank, iterations, &mut random);
    let (mut a, mut b) = (vec![0.0; rank * width], vec![0.0; out * rank]);
    for (r, s) in svd.s.iter().enumerate() {
        let root = (s / scale).sqrt();
        let v = &svd.v[r * width..][..width];
        a[r * width..][..width].iter_mut().zip(v).for_each(|(a, v)| *a = root * v);
        let u = &svd.u[r * out..][..out];
        b[r..].iter_mut().step_by(rank).zip(u).for_each(|(b, u)| *b = root * u);
    }
    (a, b)
}

/// The values of a weight.
pub(super) fn dense(weight: &Weight) -> Result<Vec<f32>, NnError> {
    with_f32(&weight.dequantize()?, <[f32]>::to_vec)
}
