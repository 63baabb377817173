//! Measures the products of this machine: bytes per second of one token, FLOP per second of 512.
//!
//! `cargo run --release -p puna-kernels --example throughput [rows cols tokens]`. Weights are
//! repeated until they exceed the caches; the first line is what reading memory alone reaches.
#![expect(clippy::print_stdout, reason = "the measurements are this program's data")]

use puna_kernels::{BlockFormat, Isa, Kernels, Matrix, MatrixData, Precision};
use std::time::Instant;

/// Bytes of weights per measurement of one token: well above a shared cache of 32 MiB.
const WORKING_SET: usize = 400 << 20;

/// Best seconds of several runs.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Bytes that are valid, small weights in every format, and no subnormal ones.
fn weights(bytes: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x1b | 0x20
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let [rows, cols, tokens] = *numbers else { return measure(2048, 2048, 512) };
    measure(rows, cols, tokens);
}

fn measure(rows: usize, cols: usize, tokens: usize) {
    let bytes = weights(WORKING_SET);
    let secs = best(5, || {
        let mut sums = vec![0u64; bytes.len().div_ceil(1 << 20)];
        puna_kernels::for_each_chunk_mut(&mut sums, 1, |i, sum| {
            let part = &bytes[i << 20..bytes.len().min((i + 1) << 20)];
            sum[0] = part.as_chunks::<8>().0.iter().fold(0, |s, b| s ^ u64::from_le_bytes(*b));
        });
        std::hint::black_box(sums);
    });
    let memory = bytes.len() as f64 / secs / 1e9;
    println!("read {memory:.1} GB/s on {} threads", puna_kernels::threads());
    for isa in [Isa::Avx512Bf16, Isa::Avx512, Isa::AvxVnni, Isa::Avx2] {
        let Some(kernels) = Kernels::for_isa(isa) else { continue };
        for &format in BlockFormat::ALL {
            for precision in [Precision::Fast, Precision::Exact] {
                let Some(row) = format.row_bytes(cols) else { continue };
                let matrices: Vec<Matrix> = bytes
                    .chunks_exact(row * rows)
                    .map(|bytes| Matrix {
                        rows,
                        cols,
                        data: MatrixData::Block { format, bytes, scales: None },
                    })
                    .collect();
                let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 37) as f32 - 18.0).collect();
                let mut y = vec![0.0; tokens * rows];
                let decode = best(3, || {
                    for w in &matrices {
                        kernels.matmul(w, &x[..cols], &mut y[..rows], precision);
                    }
                });
                let prefill = best(3, || kernels.matmul(&matrices[0], &x, &mut y, precision));
                let gigabytes = (matrices.len() * row * rows) as f64 / decode / 1e9;
                let gigaflops = 2.0 * (rows * cols * tokens) as f64 / prefill / 1e9;
                println!(
                    "{isa:?} {:6} {precision:?}: 1 token {gigabytes:5.1} GB/s ({:3.0} %), \
                     {tokens} tokens {gigaflops:6.0} GFLOP/s",
                    format.name(),
                    100.0 * gigabytes / memory
                );
            }
        }
    }
}
