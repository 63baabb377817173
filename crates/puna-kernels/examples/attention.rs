//! Measures attention on this machine: FLOP per second of a prefill as a share of what
//! multiply-adds alone reach, and bytes of the cache per second of one token.
//!
//! `cargo run --release -p puna-kernels --example attention [heads kv_heads head_dim context]`.
//! A prefill of 512 tokens counts the causal half of its products; a decoded token reads the whole
//! context of as many layers as exceed the caches.
#![expect(clippy::print_stdout, reason = "the measurements are this program's data")]

use puna_kernels::{
    AttentionMask, AttentionShape, Isa, KV_PAGE, Kernels, KvLayout, KvPage, KvType, KvView,
    ScoreTransform,
};
use std::sync::Arc;
use std::time::Instant;

/// Bytes of all layers of a decoded token: well above a shared cache of 32 MiB.
const WORKING_SET: usize = 300 << 20;

/// Tokens of a prefill.
const PREFILL: usize = 512;

/// Best seconds of several runs.
fn best(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Values between -1 and 1.
fn values(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// GFLOP/s that a product of f32 matrices reaches out of the first-level cache: the ceiling.
fn product_gigaflops(kernels: &'static Kernels) -> f64 {
    use puna_kernels::{BlockFormat, Matrix, MatrixData, Precision};
    let (rows, cols, tokens) = (2048, 2048, PREFILL);
    let bytes: Vec<u8> = values(rows * cols).iter().flat_map(|x| x.to_le_bytes()).collect();
    let data = MatrixData::Block { format: BlockFormat::F32, bytes: &bytes, scales: None };
    let (x, mut y) = (values(tokens * cols), vec![0.0; tokens * rows]);
    let matrix = Matrix { rows, cols, data };
    let secs = best(5, || kernels.matmul(&matrix, &x, &mut y, Precision::Exact));
    2.0 * (rows * cols * tokens) as f64 / secs / 1e9
}

/// GFLOP/s of multiply-adds on registers, on all threads.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the loop is compiled for AVX-512, which is detected first")]
fn peak_gigaflops() -> Option<f64> {
    #[target_feature(enable = "avx512f")]
    fn multiply_adds(n: usize) -> f32 {
        use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_reduce_add_ps, _mm512_set1_ps};
        let (a, b) = (_mm512_set1_ps(std::hint::black_box(0.5)), _mm512_set1_ps(1.0));
        let mut acc = [_mm512_set1_ps(0.0); 16];
        for _ in 0..n {
            for acc in &mut acc {
                *acc = _mm512_fmadd_ps(*acc, a, b);
            }
        }
        acc.iter().map(|acc| _mm512_reduce_add_ps(*acc)).sum()
    }
    if !is_x86_feature_detected!("avx512f") {
        return None;
    }
    let (n, threads) = (2_000_000, puna_kernels::threads());
    let secs = best(5, || {
        let mut sums = vec![0.0; threads];
        puna_kernels::for_each_chunk_mut(&mut sums, 1, |_, sum| {
            // SAFETY: the CPU has AVX-512, as was just asked.
            sum[0] = unsafe { multiply_adds(n) };
        });
        std::hint::black_box(sums);
    });
    Some((threads * n * 16 * 16 * 2) as f64 / secs / 1e9)
}

#[cfg(not(target_arch = "x86_64"))]
fn peak_gigaflops() -> Option<f64> {
    None
}

/// GB/s of reading memory alone, on all threads.
fn read_gigabytes() -> f64 {
    let words = vec![1u64; WORKING_SET / 8];
    let secs = best(5, || {
        let mut sums = vec![0u64; words.len().div_ceil(1 << 17)];
        puna_kernels::for_each_chunk_mut(&mut sums, 1, |i, sum| {
            let part = &words[i << 17..words.len().min((i + 1) << 17)];
            sum[0] = part.iter().fold(0, |s, word| s ^ word);
        });
        std::hint::black_box(sums);
    });
    WORKING_SET as f64 / secs / 1e9
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (heads, kv_heads, head_dim, context) = match *numbers {
        [heads, kv_heads, head_dim, context] => (heads, kv_heads, head_dim, context),
        _ => (32, 4, 64, 8192),
    };
    let shape = AttentionShape { heads, kv_heads, head_dim };
    println!("{shape:?}, {} threads", puna_kernels::threads());
    let peak = peak_gigaflops();
    println!("read {:.1} GB/s", read_gigabytes());
    for isa in [Isa::Avx512Bf16, Isa::Avx512, Isa::AvxVnni, Isa::Avx2] {
        let Some(kernels) = Kernels::for_isa(isa) else { continue };
        let product = product_gigaflops(kernels);
        println!("{isa:?}: peak {:.0}, f32 product {product:.0} GFLOP/s", peak.unwrap_or(f64::NAN));
        for &kv_type in KvType::ALL {
            match KvLayout::new(kv_type, kv_heads, head_dim) {
                Ok(layout) => measure(kernels, layout, &shape, context, peak.unwrap_or(product)),
                Err(error) => println!("{error}"),
            }
        }
    }
}

fn pages(layout: KvLayout, positions: usize) -> Vec<Option<Arc<KvPage>>> {
    let (k, v) = (values(KV_PAGE * layout.width()), values(KV_PAGE * layout.width()));
    let page = |_| {
        let mut page = KvPage::new(layout);
        page.write(0, &k, &v);
        Some(Arc::new(page))
    };
    (0..positions.div_ceil(KV_PAGE)).map(page).collect()
}

fn measure(kernels: &Kernels, layout: KvLayout, shape: &AttentionShape, context: usize, peak: f64) {
    let width = shape.heads * shape.head_dim;
    let scores = ScoreTransform { scale: 0.125, softcap: None };
    let q = values(PREFILL * width);
    let mut out = vec![0.0; PREFILL * width];
    let cache = pages(layout, PREFILL);
    let kv = KvView { layout, pages: &cache };
    let mask = AttentionMask { first_position: 0, window: None };
    let prefill = best(20, || kernels.attention((&q, &mut out), &kv, shape, &mask, &scores));
    let flops = (4 * width) as f64 * (PREFILL * (PREFILL + 1) / 2) as f64;
    let rate = flops / prefill / 1e9;

    let layer_bytes = layout.page_bytes() * context / KV_PAGE;
    let layers: Vec<_> =
        (0..WORKING_SET.div_ceil(layer_bytes)).map(|_| pages(layout, context)).collect();
    let mask = AttentionMask { first_position: context - 1, window: None };
    let decode = best(5, || {
        for layer in &layers {
            let kv = KvView { layout, pages: layer };
            kernels.attention((&q[..width], &mut out[..width]), &kv, shape, &mask, &scores);
        }
    });
    let bytes = (layers.len() * layer_bytes) as f64;

    let (k, v) = (values(PREFILL * layout.width()), values(PREFILL * layout.width()));
    let mut page = KvPage::new(layout);
    let rows = KV_PAGE * layout.width();
    let write = best(20, || page.write(0, &k[..rows], &v[..rows])) / KV_PAGE as f64;
    let one = layout.width();
    let write_one = best(20, || page.write(7, &k[..one], &v[..one]));
    println!(
        "  {:5} {PREFILL} tokens {rate:5.0} GFLOP/s ({:.0} % of the peak); 1 token at {context}: \
         {:5.1} GB/s, {:.0} us a layer; writing {:.0} ns a token of 64, {:.0} ns one",
        layout.kv_type().name(),
        100.0 * rate / peak,
        bytes / decode / 1e9,
        1e6 * decode / layers.len() as f64,
        1e9 * write,
        1e9 * write_one,
    );
}
