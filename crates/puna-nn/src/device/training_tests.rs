//! Ops of training on a GPU beside the CPU's, forward and backward.

use std::sync::Arc;

use super::tests::{check, gpu, tolerance};
use super::*;
use crate::ops::{self, BatchAttention, CrossEntropy, LowRank};
use crate::{Embedding, Parameter, Precision, RopeTables, RowsOfTokens};
use puna_kernels::{AttentionShape, GateActivation, ScoreTransform};
use puna_testkit::random_tensor;

/// Trained tensors of one side, of the same values on both.
struct Side {
    device: Option<Device>,
    parameters: Vec<Arc<Parameter>>,
}

impl Side {
    fn parameter(&mut self, seed: u64, shape: &[usize]) -> Arc<Parameter> {
        let values = random_tensor(seed, shape).flatten_all().unwrap().to_vec1().unwrap();
        let parameter = Arc::new(Parameter::new("p", shape, values));
        if let Some(device) = &self.device {
            parameter.move_to(device).unwrap();
        }
        self.parameters.push(Arc::clone(&parameter));
        parameter
    }

    fn tensor(&self, x: &Tensor) -> Tensor {
        x.to_device(self.device.as_ref().unwrap_or(&Device::Cpu)).unwrap()
    }

    /// The gradients of the parameters so far.
    fn gradients(&self) -> Vec<Tensor> {
        let of = |p: &Arc<Parameter>| {
            p.download_gradient().unwrap();
            let values = p.with_gradient(|g| g.expect("a gradient").to_vec());
            Tensor::from_vec(values, p.shape(), &Device::Cpu).unwrap()
        };
        self.parameters.iter().map(of).collect()
    }
}

/// Runs an op on both sides, twice, so that gradients are written and added to.
fn compare(
    gpu: &Device,
    what: &str,
    (shapes, tolerance): (&[&[usize]], f32),
    op: impl Fn(&mut Side, &[Value]) -> Value,
) {
    let run = |device: Option<Device>| {
        let mut side = Side { device, parameters: Vec::new() };
        let mut results = Vec::new();
        for turn in 0..2 {
            let mut again = Side { device: side.device.clone(), parameters: Vec::new() };
            let inputs: Vec<Value> = (0u64..)
                .zip(shapes)
                .map(|(i, shape)| Value::leaf(side.tensor(&random_tensor(20 + i, shape))))
                .collect();
            // What was made in the first turn is used again.
            let y = op(if turn == 0 { &mut side } else { &mut again }, &inputs);
            let used = if turn == 0 { &side } else { &again };
            let seed = side.tensor(&random_tensor(50, y.tensor().dims()));
            let back = y.backward(seed).unwrap();
            results.push(y.tensor().clone());
            results.extend(inputs.iter().map(|x| back.of(x).expect("a gradient").clone()));
            results.extend(used.gradients());
        }
        results
    };
    let (ours, theirs) = (run(Some(gpu.clone())), run(None));
    assert_eq!(ours.len(), theirs.len());
    for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let ours = ours.to_device(&Device::Cpu).unwrap();
        check(&ours, theirs, tolerance, &format!("{what}, result {i}"));
    }
}

#[test]
fn norms_rotations_gates_and_biases_go_back_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let exact = tolerance(DType::F32);
    for (rows, width, pieces) in [(3, 8, 1), (130, 96, 1), (5, 64, 4), (700, 1000, 1)] {
        compare(&gpu, "norm", (&[&[rows, pieces * width]], exact), |side, x| {
            let w = Vector::Trained(side.parameter(1, &[width]));
            ops::rms_norm(&x[0], &w, 1e-5, Precision::Exact).unwrap()
        });
        compare(&gpu, "bias", (&[&[rows, width]], exact), |side, x| {
            let b = Vector::Trained(side.parameter(1, &[width]));
            ops::add_bias(&x[0], &b).unwrap()
        });
        compare(&gpu, "frozen norm in a sum", (&[&[rows, width]], exact), |side, x| {
            let w = Vector::Fixed(side.tensor(&random_tensor(2, &[width])));
            x[0].add(&ops::rms_norm(&x[0], &w, 1e-5, Precision::Exact).unwrap()).unwrap()
        });
    }
    for (heads, dim, rotary) in [(2, 8, 8), (3, 20, 12), (4, 64, 64)] {
        let angles: Vec<f32> = (0..7 * rotary / 2).map(|i| i as f32 * 0.37).collect();
        let (cos, sin) = (angles.iter().map(|a| a.cos()), angles.iter().map(|a| a.sin()));
        let tables = RopeTables::new(cos.collect(), sin.collect(), rotary);
        for (precision, dtype) in [(Precision::Exact, DType::F32), (Precision::Fast, DType::BF16)] {
            let shapes: &[&[usize]] = &[&[7, heads * dim]];
            compare(&gpu, "rope", (shapes, tolerance(dtype)), |_, x| {
                ops::rope(&x[0], heads, &Arc::new(tables.clone()), precision).unwrap()
            });
        }
    }
    for activation in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf] {
        for (precision, dtype) in [(Precision::Exact, DType::F32), (Precision::Fast, DType::BF16)] {
            let shapes: &[&[usize]] = &[&[9, 100], &[9, 100]];
            compare(&gpu, "gated", (shapes, tolerance(dtype)), |_, x| {
                ops::gated(activation, &x[0], &x[1], precision).unwrap()
            });
        }
    }
}

#[test]
fn products_with_trained_weights_go_back_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    for (tokens, cols, rows) in [(1, 8, 3), (33, 24, 50), (256, 64, 192)] {
        for (precision, dtype) in [(Precision::Exact, DType::F32), (Precision::Fast, DType::BF16)] {
            let shapes: &[&[usize]] = &[&[tokens, cols]];
            compare(&gpu, "linear", (shapes, tolerance(dtype)), |side, x| {
                let w = Arc::new(Weight::Trained(side.parameter(1, &[rows, cols])));
                ops::linear_in_training(&x[0], &w, precision).unwrap()
            });
            compare(&gpu, "two layers of one input", (shapes, tolerance(dtype)), |side, x| {
                let mut layer = |seed| {
                    let w = Arc::new(Weight::Trained(side.parameter(seed, &[rows, cols])));
                    ops::linear_in_training(&x[0], &w, precision).unwrap()
                };
                layer(1).add(&layer(2)).unwrap()
            });
            compare(&gpu, "low rank", (shapes, tolerance(dtype)), |side, x| {
                let of = LowRank {
                    a: side.parameter(2, &[4, cols]),
                    b: side.parameter(3, &[rows, 4]),
                    scale: 0.5,
                };
                let frozen = side.tensor(&random_tensor(1, &[rows, cols]));
                let frozen = match side.device {
                    Some(_) => frozen.to_dtype(dtype).unwrap(),
                    None => frozen,
                };
                let y = ops::linear(&x[0], &Arc::new(Weight::Dense(frozen)), precision).unwrap();
                ops::low_rank(&x[0], y, &of, precision).unwrap()
            });
        }
    }
}

#[test]
fn attention_over_rows_goes_back_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let cases = [
        (5, 2, 1, 16, None, None),
        (64, 2, 2, 32, None, None),
        (65, 4, 2, 48, Some(3), None),
        (130, 4, 1, 64, None, Some(2.0)),
        (300, 2, 2, 64, Some(100), None),
        (200, 3, 3, 80, None, None),
        (140, 2, 1, 96, Some(70), Some(3.0)),
        (100, 2, 2, 112, None, None),
        (257, 4, 2, 128, None, None),
        // Composed: heads without a kernel.
        (40, 2, 1, 24, Some(9), None),
    ];
    for (len, heads, kv_heads, head_dim, window, softcap) in cases {
        // Two rows, the second of two documents.
        let second = len as u32 / 3;
        let row = (0..len as u32).map(|i| if i < second { 0 } else { second });
        let visible_from: Vec<u32> = (0..len).map(|_| 0).chain(row).collect();
        for (precision, dtype) in [(Precision::Exact, DType::F32), (Precision::Fast, DType::BF16)] {
            let of = BatchAttention {
                shape: AttentionShape { heads, kv_heads, head_dim },
                rows: RowsOfTokens::new(len, visible_from.clone()),
                window,
                scores: ScoreTransform { scale: 1.0 / (head_dim as f32).sqrt(), softcap },
                precision,
                prefix_groups: 0,
            };
            let (q, kv) = ([2 * len, heads * head_dim], [2 * len, kv_heads * head_dim]);
            let what = format!("attention {len} {head_dim} {window:?} {precision:?}");
            compare(&gpu, &what, (&[&q, &kv, &kv], tolerance(dtype)), |_, x| {
                let rows = RowsOfTokens::new(len, visible_from.clone());
                let of = BatchAttention { rows, ..of.clone() };
                ops::batch_attention(&x[0], &x[1], &x[2], None, of).unwrap()
            });
        }
    }
}

#[test]
fn losses_and_embeddings_go_back_as_on_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let (tokens, width, vocab) = (70, 24, 300);
    let some: Vec<Option<u32>> =
        (0..tokens as u32).map(|n| (n % 3 != 1).then_some(n * 7 % vocab as u32)).collect();
    let all: Vec<Option<u32>> = some.iter().map(|t| t.or(Some(5))).collect();
    for (targets, z_loss, softcap) in
        [(&some, 0.0, None), (&all, 1e-2, None), (&some, 1e-2, Some(3.0))]
    {
        for (precision, dtype) in [(Precision::Exact, DType::F32), (Precision::Fast, DType::BF16)] {
            let run = |device: Option<Device>| {
                let mut side = Side { device, parameters: Vec::new() };
                let head = Weight::Trained(side.parameter(3, &[vocab, width]));
                let x = Value::leaf(side.tensor(&random_tensor(4, &[tokens, width])));
                let of = CrossEntropy {
                    targets,
                    weights: None,
                    scale: 0.1,
                    z_loss,
                    softcap,
                    consistency: None,
                    precision,
                };
                let (losses, dx) = ops::cross_entropy(&x, &head, &of).unwrap();
                let sum = losses.sum().unwrap();
                let again = Value::constant(x.tensor().clone());
                let again = ops::cross_entropy(&again, &head, &of).unwrap().0;
                assert_eq!(again.sum().unwrap(), sum);
                (sum, dx.unwrap(), side.gradients())
            };
            let ((ours, our_dx, our_dw), (theirs, dx, dw)) = (run(Some(gpu.clone())), run(None));
            assert_eq!(ours.targets, theirs.targets);
            let near = |a: f64, b: f64| (a / b - 1.0).abs() < f64::from(tolerance(dtype));
            assert!(near(ours.loss, theirs.loss) && near(ours.z_squared, theirs.z_squared));
            check(&our_dx.to_device(&Device::Cpu).unwrap(), &dx, tolerance(dtype), "dx");
            check(&our_dw[0], &dw[0], tolerance(dtype), "dw");
        }
    }
    let ids = [3, 0, 3, 299, 3, 7, 0];
    let run = |device: Option<Device>| {
        let mut side = Side { device, parameters: Vec::new() };
        let parameter = side.parameter(3, &[vocab, width]);
        let embedding = Embedding::new(Arc::new(Weight::Trained(Arc::clone(&parameter))), 1.5);
        let x = embedding.forward(&ids).unwrap();
        let dx = side.tensor(&random_tensor(9, &[ids.len(), width]));
        for _ in 0..2 {
            match side.device {
                Some(_) => {
                    ops::embedding_backward_on_device(&parameter, &ids, &dx, 1.5).unwrap();
                }
                None => ops::with_f32(&dx, |dx| {
                    ops::embedding_backward(&parameter, &ids, dx, 1.5);
                })
                .unwrap(),
            }
        }
        (x, side.gradients())
    };
    let ((our_x, ours), (x, theirs)) = (run(Some(gpu.clone())), run(None));
    check(&our_x.to_device(&Device::Cpu).unwrap(), &x, 0.0, "embeddings");
    check(&ours[0], &theirs[0], tolerance(DType::F32), "gradient of embeddings");
}

#[test]
fn nccl_sums_and_copies_in_the_memory_of_a_gpu() {
    use puna_cuda::nccl::{self, Communicator};
    let Some(gpu) = gpu() else { return };
    let Some(id) = nccl::new_id().unwrap() else {
        return puna_testkit::skipped("there is no libnccl.so.2");
    };
    let alone = Communicator::join(&gpu, id, (0, 1)).unwrap().expect("a GPU and NCCL");
    let mut side = Side { device: Some(gpu.clone()), parameters: Vec::new() };
    let parameter = side.parameter(7, &[300, 5]);
    let x = random_tensor(8, &[300, 5]).to_device(&gpu).unwrap();
    parameter.with_device_gradient(|g| Ok(g.slice_set(&x, 0, 0)?)).unwrap();
    parameter.with_device_gradient(|g| Ok(alone.reduce(g, 0)?)).unwrap();
    parameter.with_device_values(|v| Ok(alone.broadcast(v, 0)?)).unwrap();
    alone.finish().unwrap();
    check(&side.gradients()[0], &x.to_device(&Device::Cpu).unwrap(), 0.0, "a sum of one");
    parameter.download().unwrap();
    let values = Tensor::from_slice(&parameter.values(), (300, 5), &Device::Cpu).unwrap();
    check(&values, &random_tensor(7, &[300, 5]), 0.0, "a copy of one");
}
