//! The kernels of puna-cuda beside candle's operations, on a GPU.

use super::*;
use crate::Precision;
use puna_kernels::{AttentionMask, AttentionShape, GateActivation, ScoreTransform};
use puna_testkit::random_tensor;

/// Sums in another order, and exponentials of the GPU's own.
const TOLERANCE: f32 = 2e-5;
/// Values that were rounded to bfloat16, each by at most 2^-9 of itself and the sums of them by less.
const BF16_TOLERANCE: f32 = 2e-2;

pub(super) fn tolerance(dtype: DType) -> f32 {
    if dtype == DType::F32 { TOLERANCE } else { BF16_TOLERANCE }
}

pub(super) fn gpu() -> Option<Device> {
    let opened = if candle_core::utils::cuda_is_available() {
        puna_cuda::open(0).map_err(|e| e.to_string())
    } else {
        Err("built without the feature cuda".to_owned())
    };
    opened.map_err(|reason| puna_testkit::skipped(&reason)).ok()
}

fn values(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference beside the largest value.
pub(super) fn check(ours: &Tensor, theirs: &Tensor, tolerance: f32, what: &str) {
    let (ours, theirs) = (values(ours), values(theirs));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
    let error = ours.iter().zip(&theirs).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(error <= tolerance * largest, "{what}: off by {error} where values reach {largest}");
}

fn random(seed: u64, shape: &[usize], device: &Device) -> Tensor {
    random_tensor(seed, shape).to_device(device).unwrap()
}

#[test]
fn products_of_few_tokens_are_those_of_tensors() {
    let Some(device) = gpu() else { return };
    for (cols, rows, tokens) in [
        (8, [1, 1, 1], 1),
        (72, [37, 5, 9], 3),
        (2048, [64, 8, 8], 1),
        (2056, [100, 3, 1], 8),
        (5632, [2048, 1, 7], 5),
        (14336, [600, 20, 20], 1),
        (64, [32000, 1, 1], 2),
    ] {
        let x = random(1, &[tokens, cols], &device);
        let norm = random(2, &[cols], &device);
        let add = random(3, &[tokens, rows.iter().sum()], &device);
        for dtype in [DType::F32, DType::BF16] {
            let weights: Vec<Tensor> = (0..3)
                .map(|i| {
                    random(10 + i, &[rows[i as usize], cols], &device).to_dtype(dtype).unwrap()
                })
                .collect();
            let bias = random(4, &[rows[1]], &device);
            let matrices = [0, 1, 2].map(|i| puna_cuda::Matrix {
                weight: &weights[i],
                bias: (i == 1).then_some(&bias),
            });
            let as_f32: Vec<Tensor> =
                weights.iter().map(|w| w.to_dtype(DType::F32).unwrap()).collect();
            let product = |x: &Tensor, i: usize| x.matmul(&as_f32[i].t().unwrap()).unwrap();
            let what = format!("{cols} {rows:?} {tokens} {dtype:?}");

            let y = puna_cuda::project(&x, None, &matrices[..1], None).unwrap().unwrap();
            check(&y, &product(&x, 0), TOLERANCE, &what);

            let kernel = puna_cuda::Norm { weight: &norm, eps: 1e-5 };
            let y = puna_cuda::project(&x, Some(kernel), &matrices, Some(&add)).unwrap().unwrap();
            let root =
                ((x.sqr().unwrap().mean_keepdim(1).unwrap() + 1e-5).unwrap()).sqrt().unwrap();
            let normed = x.broadcast_div(&root).unwrap().broadcast_mul(&norm).unwrap();
            let second = product(&normed, 1).broadcast_add(&bias).unwrap();
            let all = [product(&normed, 0), second, product(&normed, 2)];
            let theirs = (Tensor::cat(&all, 1).unwrap() + &add).unwrap();
            check(&y, &theirs, TOLERANCE, &what);
            let alone = puna_cuda::rms_norm(&x, kernel, dtype).unwrap().unwrap();
            let rounded = normed.to_dtype(dtype).unwrap();
            check(&alone, &rounded, tolerance(dtype), &what);
            let add = add.narrow(1, 0, rows[0]).unwrap().contiguous().unwrap();
            let y = puna_cuda::matmul(&rounded, matrices[0], Some(&add)).unwrap().unwrap();
            let theirs = product(&rounded.to_dtype(DType::F32).unwrap(), 0);
            check(&y, &(theirs + &add).unwrap(), TOLERANCE, &what);
        }
    }
}

#[test]
fn gates_are_those_of_tensors() {
    let Some(device) = gpu() else { return };
    for (cols, rows, tokens) in [(72, 37, 1), (2048, 500, 4), (512, 1408, 7)] {
        let x = random(1, &[tokens, cols], &device);
        for dtype in [DType::F32, DType::BF16] {
            let [gate, up] = [2, 3].map(|seed| {
                (random(seed, &[rows, cols], &device) * 0.1).unwrap().to_dtype(dtype).unwrap()
            });
            let bias = random(4, &[rows], &device);
            let matrices = [
                puna_cuda::Matrix { weight: &gate, bias: None },
                puna_cuda::Matrix { weight: &up, bias: Some(&bias) },
            ];
            let product =
                |w: &Tensor| x.matmul(&w.to_dtype(DType::F32).unwrap().t().unwrap()).unwrap();
            let (g, u) = (product(&gate), product(&up).broadcast_add(&bias).unwrap());
            for (kernel, ours) in [
                (puna_cuda::Activation::Silu, GateActivation::Silu),
                (puna_cuda::Activation::GeluTanh, GateActivation::GeluTanh),
                (puna_cuda::Activation::GeluErf, GateActivation::GeluErf),
            ] {
                let [cpu_g, cpu_u] =
                    [&g, &u].map(|x| Value::constant(x.to_device(&Device::Cpu).unwrap()));
                let theirs = ops::gated(ours, &cpu_g, &cpu_u, Precision::Exact).unwrap();
                let y = puna_cuda::gate(&x, None, matrices, kernel).unwrap().unwrap();
                let what = format!("{cols} {rows} {tokens} {dtype:?} {kernel:?}");
                check(&y, theirs.tensor(), TOLERANCE, &what);
                let y = puna_cuda::gated(&g, &u, kernel, dtype).unwrap().unwrap();
                check(&y, theirs.tensor(), tolerance(dtype), &what);
            }
        }
    }
}

#[test]
fn attention_to_short_and_long_caches_is_that_of_tensors() {
    let Some(device) = gpu() else { return };
    for (heads, kv_heads, head_dim) in
        [(8, 2, 64), (4, 4, 128), (14, 2, 64), (3, 1, 256), (6, 3, 8)]
    {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        for (first, tokens) in [(0, 1), (1, 2), (62, 3), (64, 1), (300, 8), (5000, 1), (20_000, 2)]
        {
            let end = first + tokens;
            let q = random(1, &[tokens, heads * head_dim], &device);
            // Behind what is seen the buffers hold what must not count.
            let capacity = end + 3;
            for dtype in [DType::F32, DType::BF16] {
                let [keys, values] = [2, 3].map(|seed| {
                    random(seed, &[kv_heads, capacity, head_dim], &device).to_dtype(dtype).unwrap()
                });
                for (window, softcap) in [(None, None), (Some(100), None), (None, Some(3.0))] {
                    let place = |first| puna_cuda::Place {
                        keys: keys.clone(),
                        values: values.clone(),
                        first,
                    };
                    let each: Vec<_> = (first..first + tokens).map(place).collect();
                    let places = puna_cuda::Places { each: &each, run: 1 };
                    let transform = puna_cuda::Scores { scale: 0.3, softcap, window };
                    let out =
                        puna_cuda::empty(&q, dtype, (tokens, heads * head_dim)).unwrap().unwrap();
                    let heads = puna_cuda::Heads { query: heads, kv: kv_heads, dim: head_dim };
                    puna_cuda::attend(&q, heads, &places, &transform, &out).unwrap().unwrap();
                    let seen =
                        |x: &Tensor| x.narrow(1, 0, end).unwrap().to_dtype(DType::F32).unwrap();
                    let mask = AttentionMask { first_position: first, window };
                    let scores = ScoreTransform { scale: 0.3, softcap };
                    let kv = (&seen(&keys), &seen(&values));
                    let theirs = ops::attention(&q, kv, &shape, &mask, &scores).unwrap();
                    let what =
                        format!("{shape:?} {first} {tokens} {dtype:?} {window:?} {softcap:?}");
                    check(&out, &theirs, tolerance(dtype), &what);
                }
            }
        }
    }
}

#[test]
fn rotated_queries_and_keys_are_those_of_tensors() {
    let Some(device) = gpu() else { return };
    let heads = puna_cuda::Heads { query: 4, kv: 2, dim: 16 };
    for (tokens, first, rotary_dim, normed) in
        [(1, 0, 16, false), (3, 5, 8, true), (20, 2, 16, true)]
    {
        let all = random(1, &[tokens, 8 * 16], &device);
        let part = |first: usize, len: usize| all.narrow(1, first * 16, len * 16).unwrap();
        let [q, k, v] = [part(0, 4), part(4, 2), part(6, 2)];
        let weight = random(2, &[16], &device);
        let norm = normed.then_some(puna_cuda::Norm { weight: &weight, eps: 1e-5 });
        let angles: Vec<f32> =
            random_tensor(3, &[tokens, rotary_dim / 2]).flatten_all().unwrap().to_vec1().unwrap();
        let tables = crate::RopeTables::new(
            angles.iter().map(|a| a.cos()).collect(),
            angles.iter().map(|a| a.sin()).collect(),
            rotary_dim,
        );
        let tables = std::sync::Arc::new(tables);
        let expected = |x: &Tensor, heads: usize, norm: bool| {
            let x = x.contiguous().unwrap().to_device(&Device::Cpu).unwrap();
            let mut x = Value::constant(x);
            if norm {
                let weight = weight.to_device(&Device::Cpu).unwrap();
                x = RmsNorm::new(Vector::Fixed(weight), 1e-5).forward(&x).unwrap();
            }
            ops::rope(&x, heads, &tables, Precision::Exact).unwrap().tensor().clone()
        };
        let (new_q, new_k) = (expected(&q, 4, normed), expected(&k, 2, normed));
        let (cos, sin) = tables.on_device(&device).unwrap();
        let rotation =
            puna_cuda::Rotation { tables: (&cos, &sin), rotary_dim, norms: (norm, norm) };
        for dtype in [DType::F32, DType::BF16] {
            let q = q.copy().unwrap();
            let [keys, values] =
                [0, 1].map(|_| Tensor::zeros((2, 32, 16), dtype, &device).unwrap());
            let each = [puna_cuda::Place { keys: keys.clone(), values: values.clone(), first }];
            let places = puna_cuda::Places { each: &each, run: tokens };
            puna_cuda::rotate([&q, &k, &v], heads, &rotation, &places).unwrap().unwrap();
            let what = format!("{tokens} {first} {rotary_dim} {normed} {dtype:?}");
            check(&q, &new_q, TOLERANCE, &what);
            for (kept, new) in [(&keys, &new_k), (&values, &v)] {
                let kept = kept.narrow(1, first, tokens).unwrap().transpose(0, 1).unwrap();
                check(
                    &kept.contiguous().unwrap(),
                    &new.contiguous().unwrap(),
                    tolerance(dtype),
                    &what,
                );
            }
        }
    }
}
