//! Load-balancing loss of a mixture of experts (Switch Transformers, arXiv:2101.03961, equations 4
//! to 6): `L = E Σ_e f_e P_e`, with the share `f_e` of all choices that fell on expert `e` and the
//! mean probability `P_e` that the router gave it. 1 where all experts are used alike, `E` where one
//! is used alone; `f` has no gradient.
//!
//! Backward: `dl[n, e] = E / N · p[n, e] (f_e − Σ_i f_i p[n, i])`. The loss does not flow through the
//! decoder's output, so its gradient joins the logits' where they go back.

use candle_core::{Device, Tensor};

use super::with_f32;
use crate::{NnError, Value};

/// The loss of some tokens' router, and the router's logits, which give back its gradient times
/// `weight` besides their own. `uses` counts how often each expert was chosen.
///
/// # Shapes
/// `logits` `[N, E]`, `uses` `[E]`
///
/// # Errors
/// If the logits are not float32.
pub fn load_balance(logits: &Value, uses: &[usize], weight: f32) -> Result<(f64, Value), NnError> {
    let (tokens, experts) = logits.tensor().dims2()?;
    let choices = uses.iter().sum::<usize>().max(1) as f32;
    let shares: Vec<f32> = uses.iter().map(|&uses| uses as f32 / choices).collect(); // [E]
    let factor = experts as f32 / tokens.max(1) as f32;
    let on_cpu = logits.tensor().to_device(&Device::Cpu)?;
    let mut probabilities = with_f32(&on_cpu, <[f32]>::to_vec)?; // [N, E]
    let mut loss = 0f64;
    for row in probabilities.chunks_exact_mut(experts.max(1)) {
        puna_kernels::softmax(row);
        let mean: f32 = shares.iter().zip(&*row).map(|(f, p)| f * p).sum();
        loss += f64::from(factor * mean);
        for (p, f) in row.iter_mut().zip(&shares) {
            *p *= weight * factor * (f - mean);
        }
    }
    let gradient = Tensor::from_vec(probabilities, (tokens, experts), &Device::Cpu)?;
    let gradient = gradient.to_device(logits.tensor().device())?;
    let tensor = logits.tensor().clone();
    let with_gradient =
        Value::derived(tensor, &[logits], move |d_logits| Ok(vec![Some((d_logits + gradient)?)]));
    Ok((loss, with_gradient))
}

#[cfg(test)]
mod tests {
    use super::*;
    use puna_testkit::{GradTolerance, gradcheck_by, random_tensor};

    #[test]
    fn balanced_routers_have_loss_one_and_one_expert_alone_has_their_number() {
        let even =
            Value::constant(Tensor::zeros((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap());
        assert_eq!(load_balance(&even, &[2, 2], 1.0).unwrap().0, 1.0);
        let one = Tensor::new(&[[50f32, 0.0], [50.0, 0.0]], &Device::Cpu).unwrap();
        assert_eq!(load_balance(&Value::constant(one), &[2, 0], 1.0).unwrap().0, 2.0);
    }

    #[test]
    fn its_gradient_matches_central_differences_and_adds_to_the_logits_own() {
        let uses = [3, 1, 4];
        let loss = |logits: &Value| load_balance(logits, &uses, 1.0).unwrap().0 as f32;
        gradcheck_by(
            |x| Tensor::new(&[loss(&Value::constant(x[0].clone()))], &Device::Cpu),
            |x, seed| {
                let leaf = Value::leaf(x[0].clone());
                let (_, logits) = load_balance(&leaf, &uses, 1.0).unwrap();
                let gradients = logits.backward(x[0].zeros_like()?).unwrap();
                Ok(vec![Some(gradients.of(&leaf).unwrap().broadcast_mul(seed)?)])
            },
            &[random_tensor(5, &[4, 3])],
            GradTolerance::default(),
        );
        let leaf = Value::leaf(random_tensor(5, &[4, 3]));
        let (_, logits) = load_balance(&leaf, &uses, 0.0).unwrap();
        let seed = random_tensor(6, &[4, 3]);
        let gradients = logits.backward(seed.clone()).unwrap();
        let both = [gradients.of(&leaf).unwrap(), &seed].map(|t| t.to_vec2::<f32>().unwrap());
        assert_eq!(both[0], both[1]);
    }
}
