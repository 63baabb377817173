//! Norms, activations and softmax against f64, with every instruction set.

use crate::support::{Random, tables};
use puna_kernels::GateActivation;

/// A few rounding steps of f32.
const RELATIVE: f64 = 6e-7;

fn close(got: f32, expected: f64, absolute: f64, what: &str) {
    let error = (f64::from(got) - expected).abs();
    assert!(error <= absolute + RELATIVE * expected.abs(), "{what}: {got} instead of {expected}");
}

const LENGTHS: [usize; 7] = [1, 2, 15, 16, 33, 257, 5000];

#[test]
fn rms_norm_matches_f64() {
    for kernels in tables() {
        for n in LENGTHS {
            let mut random = Random(n as u64);
            let (x, weight) = (random.normals(3 * n), random.normals(n));
            let mut out = vec![0.0; 3 * n];
            kernels.rms_norm(&x, &weight, 1e-5, &mut out);
            for (x, out) in x.chunks(n).zip(out.chunks(n)) {
                let square: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let inverse = (square / n as f64 + f64::from(1e-5f32)).sqrt().recip();
                for ((x, w), &out) in x.iter().zip(&weight).zip(out) {
                    close(out, f64::from(*x) * f64::from(*w) * inverse, 0.0, "rms_norm");
                }
            }
        }
    }
}

#[test]
fn softmax_and_its_logarithm_match_f64() {
    for kernels in tables() {
        for n in LENGTHS {
            let mut random = Random(n as u64);
            let x: Vec<f32> = (0..n).map(|_| 8.0 * random.normal() + 300.0).collect();
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let exp: Vec<f64> = x.iter().map(|x| f64::from(x - max).exp()).collect();
            let sum: f64 = exp.iter().sum();
            let (mut p, mut log) = (x.clone(), vec![0.0; n]);
            kernels.softmax(&mut p);
            kernels.log_softmax(&x, &mut log);
            let (largest, total) = kernels.sum_exp(&x);
            assert_eq!(largest, max);
            close(total as f32, sum, 0.0, "sum of exponentials");
            for i in 0..n {
                close(p[i], exp[i] / sum, 1e-37, "softmax");
                close(log[i], f64::from(x[i] - max) - sum.ln(), 2e-7, "log_softmax");
            }
        }
    }
}

#[test]
fn softmax_gives_masked_entries_zero_and_passes_nan_on() {
    for kernels in tables() {
        let mut x = vec![f32::NEG_INFINITY; 40];
        x[3] = 1.0;
        x[39] = 1.0;
        kernels.softmax(&mut x);
        assert_eq!((x[3], x[39], x[0]), (0.5, 0.5, 0.0));
        x[17] = f32::NAN;
        kernels.softmax(&mut x);
        assert!(x.iter().all(|x| x.is_nan()));
    }
}

#[test]
fn gates_match_f64_over_the_whole_range() {
    let gate: Vec<f32> = (-2400..2400).map(|i| i as f32 / 20.0).chain([1e-30, -1e-9]).collect();
    let up: Vec<f32> = Random(1).normals(gate.len());
    for kernels in tables() {
        for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf] {
            let mut out = vec![0.0; gate.len()];
            kernels.gated(act, &gate, &up, &mut out);
            for ((&g, &u), &out) in gate.iter().zip(&up).zip(&out) {
                let x = f64::from(g);
                let value = match act {
                    GateActivation::Silu => x / (1.0 + (-x).exp()),
                    GateActivation::GeluTanh => {
                        let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                        0.5 * x * (1.0 + u.tanh())
                    }
                    GateActivation::GeluErf => {
                        0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
                    }
                };
                close(out, value * f64::from(u), 2e-6, &format!("{act:?} {:?}", kernels.isa()));
            }
        }
    }
}

#[test]
fn gates_keep_infinities_and_nan() {
    for kernels in tables() {
        for act in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::GeluErf] {
            let mut out = [0.0; 2];
            kernels.gated(act, &[f32::INFINITY, f32::NAN], &[1.0; 2], &mut out);
            assert!(out[0] == f32::INFINITY && out[1].is_nan(), "{act:?} {:?}", kernels.isa());
        }
    }
}

#[test]
fn soft_cap_matches_f64_from_tiny_to_huge() {
    let x: Vec<f32> = (-300..300).map(|i| i as f32 / 3.0).chain([1e-8, 1e30, -1e30]).collect();
    for kernels in tables() {
        let mut capped = x.clone();
        kernels.soft_cap(&mut capped, 30.0);
        for (&x, &capped) in x.iter().zip(&capped) {
            close(capped, 30.0 * (f64::from(x) / 30.0).tanh(), 1e-30, "soft_cap");
        }
    }
}
