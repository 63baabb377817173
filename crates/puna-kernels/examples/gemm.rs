//! Speed of general products against the machine's measured peaks.
//!
//! `cargo run --release -p puna-kernels --example gemm [-- M N K]`

#![expect(clippy::print_stdout, reason = "a program that reports to a person")]

use puna_kernels::{Elements, MachineLimits, MatRef, Write, gemm};
use std::time::Instant;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let shapes = match sizes[..] {
        [m, n, k] => vec![(m, n, k)],
        _ => vec![
            (1024, 1024, 1024),
            (4096, 288, 288),
            (4096, 768, 288),
            (4096, 288, 768),
            (288, 768, 4096),
            (512, 32000, 288),
            (32000, 288, 512),
            (1024, 768, 768),
            (1024, 2048, 768),
            (2048, 768, 1024),
        ],
    };
    let limits = MachineLimits::measure();
    let peak = limits.best_peak();
    for (m, n, k) in shapes {
        for elements in [Elements::F32, Elements::Bf16] {
            for (name, transpose) in
                [("x W'", (false, true)), ("y W", (false, false)), ("y' x", (true, false))]
            {
                let secs = seconds((m, n, k), transpose, elements);
                let flops = 2.0 * (m * n * k) as f64 / secs;
                let limit = match elements {
                    Elements::F32 => peak.map(|p| p.f32_flops_per_sec),
                    Elements::Bf16 => peak.and_then(|p| p.bf16_flops_per_sec),
                };
                let share = limit.map_or(0.0, |limit| 100.0 * flops / limit);
                println!(
                    "{m:6} {n:6} {k:6} {elements:?} {name:5} {:7.1} GFLOP/s {share:4.0} %",
                    flops / 1e9
                );
            }
        }
    }
}

/// Best of several runs.
fn seconds((m, n, k): (usize, usize, usize), (at, bt): (bool, bool), elements: Elements) -> f64 {
    let values = |len: usize| (0..len).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect::<Vec<f32>>();
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0.0; m * n]);
    let a = if at { MatRef::rows(&a, m).t() } else { MatRef::rows(&a, k) };
    let b = if bt { MatRef::rows(&b, k).t() } else { MatRef::rows(&b, n) };
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        gemm((m, n, k), (a, b), (&mut c, n), Write::Set, elements);
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
