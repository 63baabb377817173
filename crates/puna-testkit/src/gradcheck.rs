//! Gradients against central differences.
//!
//! For `L = Σ g · f(x)` with a fixed random cotangent `g`, candle's `backward()` has to give the
//! derivative of `L` by every element of every input. The numeric side is the five-point stencil
//! `(8 (L₊₁ - L₋₁) - (L₊₂ - L₋₂)) / 12h`, whose truncation error is of order `h⁴`: ops compute in
//! float32, so a step large enough to stand above their rounding (`h = 2⁻⁶`; rounding of about
//! `10⁻⁷ · √n / h`, some `10⁻⁵`) must not bring a truncation error of its own. `L` is summed in f64.

use candle_core::{DType, Result, Tensor, Var};

use crate::SplitMix64;

/// Exact in binary, so that `x ± h` loses nothing for moderate `x`.
const STEP: f64 = 1.0 / 64.0;

/// Below this an input does not influence the output, and the check would compare nothing.
const VANISHING: f64 = 1e-3;

/// How far the analytic gradient may lie from the numeric one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradTolerance {
    /// Allowed difference where gradients are small.
    pub absolute: f64,
    /// Allowed difference as a share of the input's largest gradient entry.
    pub relative: f64,
}

impl Default for GradTolerance {
    /// 2e-4 + 5e-4 of the largest entry: some twenty times the rounding described above, and far
    /// below what a missing factor or term does to a gradient of order 1.
    fn default() -> Self {
        Self { absolute: 2e-4, relative: 5e-4 }
    }
}

/// Checks `backward()` of `f` at `inputs` (float32) for every input and element.
///
/// # Panics
/// If `f` fails, an input receives no gradient or does not matter, or a gradient is off by more
/// than the tolerance; the message names the input, the element and both values.
#[track_caller]
pub fn gradcheck(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    inputs: &[Tensor],
    tolerance: GradTolerance,
) {
    let backward = |inputs: &[Tensor], seed: &Tensor| {
        let vars: Vec<Var> = inputs.iter().map(Var::from_tensor).collect::<Result<_>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        let gradients = (f(&tensors)?.to_dtype(DType::F32)? * seed)?.sum_all()?.backward()?;
        Ok(vars.iter().map(|var| gradients.get(var).cloned()).collect())
    };
    gradcheck_by(&f, backward, inputs, tolerance);
}

/// [`gradcheck`] of a function with its own way back: `backward` gives, for inputs and the gradient
/// of the output, the gradients of the inputs.
///
/// # Panics
/// As [`gradcheck`].
#[track_caller]
pub fn gradcheck_by(
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    backward: impl Fn(&[Tensor], &Tensor) -> Result<Vec<Option<Tensor>>>,
    inputs: &[Tensor],
    tolerance: GradTolerance,
) {
    if let Err(problem) = check(&f, &backward, inputs, tolerance) {
        panic!("gradcheck: {problem}");
    }
}

type Function<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;
type WayBack<'a> = &'a dyn Fn(&[Tensor], &Tensor) -> Result<Vec<Option<Tensor>>>;

fn check(
    f: Function<'_>,
    backward: WayBack<'_>,
    inputs: &[Tensor],
    tolerance: GradTolerance,
) -> std::result::Result<(), String> {
    let analytic = analytic_gradients(f, backward, inputs)?;
    let values: Vec<Vec<f32>> =
        inputs.iter().map(flat).collect::<Result<_>>().map_err(|e| e.to_string())?;
    for (i, gradient) in analytic.iter().enumerate() {
        let mut numeric = Vec::with_capacity(gradient.len());
        for element in 0..gradient.len() {
            let slope = numeric_slope(f, inputs, &values[i], (i, element));
            numeric.push(slope.map_err(|e| format!("forward of input {i} moved: {e}"))?);
        }
        let largest = numeric.iter().fold(0f64, |m, v| m.max(v.abs()));
        if largest.is_nan() || largest < VANISHING {
            return Err(format!("input {i} does not matter: largest slope {largest:.1e}"));
        }
        let limit = tolerance.absolute + tolerance.relative * largest;
        for (element, (a, n)) in gradient.iter().zip(&numeric).enumerate() {
            let error = (f64::from(*a) - n).abs();
            if error.is_nan() || error > limit {
                return Err(format!(
                    "input {i}, element {element}: backward gives {a:.6}, central differences \
                     {n:.6} (allowed difference {limit:.1e})"
                ));
            }
        }
    }
    Ok(())
}

fn analytic_gradients(
    f: Function<'_>,
    backward: WayBack<'_>,
    inputs: &[Tensor],
) -> std::result::Result<Vec<Vec<f32>>, String> {
    let run = || -> Result<Vec<Option<Tensor>>> {
        let y = f(inputs)?;
        let seed = Tensor::from_vec(cotangent(y.elem_count()), y.shape(), y.device())?;
        backward(inputs, &seed)
    };
    let gradients = run().map_err(|e| e.to_string())?;
    let one = |(i, (input, gradient)): (usize, (&Tensor, &Option<Tensor>))| {
        let gradient = gradient.as_ref().ok_or_else(|| format!("input {i} gets no gradient"))?;
        if gradient.dims() != input.dims() {
            let (dims, got) = (input.dims(), gradient.dims());
            return Err(format!("input {i}: {dims:?} has a gradient {got:?}"));
        }
        flat(gradient).map_err(|e| e.to_string())
    };
    inputs.iter().zip(&gradients).enumerate().map(one).collect()
}

fn numeric_slope(
    f: Function<'_>,
    inputs: &[Tensor],
    values: &[f32],
    (input, element): (usize, usize),
) -> Result<f64> {
    let at = |steps: f64| -> Result<f64> {
        let mut moved = values.to_vec();
        moved[element] = (f64::from(moved[element]) + steps * STEP) as f32;
        let mut tensors = inputs.to_vec();
        tensors[input] = Tensor::from_vec(moved, inputs[input].shape(), inputs[input].device())?;
        let y = flat(&f(&tensors)?)?;
        let weighted = y.iter().zip(cotangent(y.len())).map(|(y, g)| f64::from(*y) * f64::from(g));
        Ok(weighted.sum())
    };
    Ok((8.0 * (at(1.0)? - at(-1.0)?) - (at(2.0)? - at(-2.0)?)) / (12.0 * STEP))
}

/// The same for every call of a length: analytic and numeric side weigh alike.
fn cotangent(n: usize) -> Vec<f32> {
    SplitMix64::new(0x9ead_c43c).normals(n)
}

fn flat(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_tensor;

    #[test]
    fn gradcheck_accepts_candles_own_operations() {
        let inputs = [random_tensor(1, &[3, 4]), random_tensor(2, &[4, 2])];
        gradcheck(|x| x[0].matmul(&x[1])?.tanh(), &inputs, GradTolerance::default());
    }

    #[test]
    #[should_panic(expected = "gradcheck: input 0, element 0: backward gives")]
    fn gradcheck_catches_a_gradient_that_lacks_a_factor() {
        // x² with a detached factor: the derivative comes out as x, not 2x.
        gradcheck(|x| &x[0] * x[0].detach(), &[random_tensor(3, &[5])], GradTolerance::default());
    }

    #[test]
    #[should_panic(expected = "input 1 gets no gradient")]
    fn gradcheck_catches_an_input_cut_off_from_the_graph() {
        let inputs = [random_tensor(4, &[5]), random_tensor(5, &[5])];
        gradcheck(|x| &x[0] * x[1].detach(), &inputs, GradTolerance::default());
    }

    #[test]
    #[should_panic(expected = "input 0 does not matter")]
    fn gradcheck_of_a_function_flat_in_its_input_fails() {
        gradcheck(|x| &x[0] * 1e-6, &[random_tensor(6, &[5])], GradTolerance::default());
    }
}
