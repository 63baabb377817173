//! The `#[target_feature]` wrappers around the generic bodies, and the tables made of them.

use super::{FloatPair, Isa, Kernels};
use crate::GateActivation;
use crate::attention::{self, HeadTask, PageWrite};
use crate::blocks::panel::{self, Blocks, Columns, PanelBuffers, ROWS};
use crate::blocks::{self, Layout, Unpacked};
use crate::flash::{self, GradientTile, SoftmaxTile};
use crate::format::BlockFormat;
use crate::gemm::{self, Block, Steps, Words};
use crate::logit_loss::{self, CrossEntropyRow};
use crate::matmul::{self, FloatTile, PanelTile, Place, Sizes};
use crate::simd::{Scalar, Simd};
use crate::training::{self, AdamWStep};
use crate::{activation, matrix, norm, rounded_gate, softmax};

/// Wrappers of bodies that take the lane type first (`lanes`) or are plain loops that the
/// compiler vectorizes with the instructions it may use (`plain`).
macro_rules! wrappers {
    ($simd:ty, $attrs:tt, lanes { $($l:ident($($la:ident: $lt:ty),*) = $lp:expr;)* }
     plain { $($p:ident($($pa:ident: $pt:ty),*) = $pp:expr;)* }) => {
        $(wrappers!(@lanes $simd, $attrs, $l, ($($la: $lt),*), $lp);)*
        $(wrappers!(@plain $attrs, $p, ($($pa: $pt),*), $pp);)*
    };
    (@lanes $simd:ty, [$(#[$attr:meta])*], $name:ident, ($($arg:ident: $ty:ty),*), $body:expr) => {
        $(#[$attr])*
        unsafe fn $name($($arg: $ty),*) {
            // SAFETY: a table is only used where the CPU has its instructions; the caller vouches
            // for pointers.
            unsafe { $body(<$simd>::assume(), $($arg),*) }
        }
    };
    (@plain [$(#[$attr:meta])*], $name:ident, ($($arg:ident: $ty:ty),*), $body:expr) => {
        $(#[$attr])*
        unsafe fn $name($($arg: $ty),*) {
            $body($($arg),*);
        }
    };
}

/// One table. `[(r, t), (b, c), (p, u), (m, v)]`: float products take `r` rows x `t` tokens at a time,
/// those of bfloat16 pairs by float32 `b` x `c`, integer ones `p` panels x `u` tokens, general ones `m`
/// rows x `v` vectors: as many accumulators as there are registers for. `but for base { … }`: that
/// table, with these bodies instead, which are what the further instructions change.
macro_rules! table {
    ($table:ident, $module:ident, $isa:expr, $simd:ty, [($r:literal, $t:literal),
     ($b:literal, $c:literal), ($p:literal, $u:literal), ($m:literal, $v:literal)], $attrs:tt) => {
        mod $module {
            use super::*;

            wrappers! { $simd, $attrs,
                lanes {
                float_tile(pair: FloatPair, tile: &FloatTile) = matmul::float_tile::<_, $r, $t, $b, $c>;
                panel_tile(tile: &PanelTile) = matmul::panel_tile::<_, $p, $u>;
                put_sums(sums: &[f32], to: Place, rows: usize) = matmul::put_sums;
                fill(blocks: &Blocks, to: &PanelBuffers) = panel::fill;
                round_panel(layout: Layout, from: &PanelBuffers, subs: usize, out: *mut u32) =
                    matmul::round_panel;
                dot(blocks: &Blocks, x: &Columns, out: &mut [f32; ROWS]) = panel::dot;
                pack(f: BlockFormat, rows: (*const u8, usize), blocks: usize, out: *mut u8) =
                    panel::pack;
                rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) =
                    norm::rms_norm_row;
                gate(act: GateActivation, up: &[f32], gate: &mut [f32]) =
                    activation::gate;
                gate_words(act: GateActivation, of: (&[u32], &[u32]), out: *mut u32) =
                    rounded_gate::gate_words;
                gate_gradient_words(act: GateActivation, of: [&[u32]; 3], to: [*mut u32; 2]) =
                    rounded_gate::gate_gradient_words;
                cap(x: &mut [f32], cap: f32) = activation::cap;
                softmax(x: &mut [f32]) = softmax::softmax_row;
                log_softmax(x: &[f32], out: &mut [f32]) = softmax::log_softmax_row;
                sum_exp(x: &[f32], max: f32, out: &mut f64) = softmax::sum_exp_row;
                unpack(format: BlockFormat, bytes: &[u8], out: &mut Unpacked) = blocks::unpack;
                expand(layout: Layout, from: &Unpacked, out: &mut [f32]) = matrix::expand;
                attend(task: &HeadTask) = attention::attend;
                quantize(x: &[f32], q: &mut [i8], scales: &mut [f32], of: (&mut [i32], &mut [Sizes])) =
                    matmul::quantize_activations::<_, 32>;
                quantize_superblocks(x: &[f32], q: &mut [i8], scales: &mut [f32],
                    of: (&mut [i32], &mut [Sizes])) = matmul::quantize_activations::<_, { blocks::SUPERBLOCK }>;
                write_page(write: &PageWrite) = attention::write_page;
                gemm_block(b: &Block) = gemm::block::<_, $m, $v>;
                gate_gradient(act: GateActivation, up: &[f32], x: &mut [f32], d: &mut [f32]) =
                    training::gate_gradient;
                norm_gradient(of: (&[f32], &[f32], f32), dy: &[f32], dx: &mut [f32],
                    dw: &mut [f32]) = training::norm_gradient;
                cross_entropy(logits: &mut [f32], row: &CrossEntropyRow, out: &mut (f32, f32)) =
                    logit_loss::cross_entropy;
                consistency(rows: (&mut [f32], &mut [f32]), how: (&CrossEntropyRow, f32),
                    out: &mut (f32, f32, f32)) = logit_loss::consistency;
                softmax_tile(tile: &SoftmaxTile) = flash::softmax_tile;
                gradient_tile(tile: &GradientTile) = flash::gradient_tile;
                rows_to_words(w: Words, from: (*const f32, usize), shape: (usize, usize),
                    out: (*mut u32, usize)) = gemm::rows_to_words;
                columns_to_words(w: Words, from: (*const f32, usize), shape: (usize, usize),
                    out: Steps) = gemm::columns_to_words;
                rounded_columns_to_words(from: (*const u16, usize), shape: (usize, usize),
                    out: Steps) = gemm::rounded_columns_to_words;
                transpose_words(from: (*const u32, usize), shape: (usize, usize), out: *mut u32) =
                    gemm::transpose_words;
                turn_pairs(from: &[u32], to: &mut [u32]) = gemm::turn_pairs;
                }
                plain {
                widen(format: BlockFormat, bytes: &[u8], out: &mut [f32]) = blocks::widen;
                round_bf16(x: &[f32], out: &mut [u16]) = matmul::round_bf16;
                adamw_part(w: &mut [f32], g: &[f32], moments: (&mut [f32], &mut [f32]),
                    step: &AdamWStep) = training::adamw_part;
                }
            }

            pub(super) const KERNELS: Kernels = Kernels {
                isa: $isa,
                panels: $p,
                gemm_cols: $v * crate::simd::LANES,
                fixed: None,
                gemm_block,
                gate_gradient,
                norm_gradient,
                cross_entropy,
                consistency,
                adamw_part,
                softmax_tile,
                gradient_tile,
                rows_to_words,
                columns_to_words,
                rounded_columns_to_words,
                transpose_words,
                turn_pairs,
                float_tile,
                panel_tile,
                put_sums,
                fill,
                round_panel,
                dot,
                pack,
                unpack,
                expand,
                widen,
                quantize_activations: quantize,
                quantize_superblocks,
                round_bf16,
                rms_norm_row: rms_norm,
                gate,
                gate_words,
                gate_gradient_words,
                cap,
                softmax_row: softmax,
                log_softmax_row: log_softmax,
                sum_exp_row: sum_exp,
                attend,
                write_page,
            };
        }
        pub(super) static $table: &Kernels = &$module::KERNELS;
    };
    ($table:ident, $module:ident, $isa:expr, $simd:ty, but for $base:ident {
     $($name:ident($($arg:ident: $ty:ty),*) = $body:expr;)* }, $attrs:tt) => {
        mod $module {
            use super::*;

            wrappers! { $simd, $attrs, lanes { $($name($($arg: $ty),*) = $body;)* } plain {} }

            pub(super) const KERNELS: Kernels =
                Kernels { isa: $isa, $($name,)* ..super::$base::KERNELS };
        }
        pub(super) static $table: &Kernels = &$module::KERNELS;
    };
}

table!(SCALAR, scalar, Isa::Scalar, Scalar, [(4, 1), (4, 1), (1, 1), (4, 1)], []);

#[cfg(target_arch = "x86_64")]
table!(
    AVX2, avx2, Isa::Avx2, crate::simd::Avx2, [(2, 3), (4, 1), (1, 3), (6, 1)],
    [#[target_feature(enable = "avx2,fma,f16c")]]
);

// The tiles of AVX2.
#[cfg(target_arch = "x86_64")]
table!(
    AVX_VNNI, avx_vnni, Isa::AvxVnni, crate::simd::AvxVnni, but for avx2 {
        panel_tile(tile: &PanelTile) = matmul::panel_tile::<_, 1, 3>;
        dot(blocks: &Blocks, x: &Columns, out: &mut [f32; ROWS]) = panel::dot;
    },
    [#[target_feature(enable = "avx2,fma,f16c,avxvnni")]]
);

#[cfg(target_arch = "x86_64")]
table!(
    AVX512, avx512, Isa::Avx512, crate::simd::Avx512, [(4, 6), (5, 4), (2, 6), (12, 2)],
    [#[target_feature(
        enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
    )]]
);

#[cfg(target_arch = "x86_64")]
table!(
    AVX512_BF16, avx512_bf16, Isa::Avx512Bf16, crate::simd::Avx512Bf16, but for avx512 {
        float_tile(pair: FloatPair, tile: &FloatTile) = matmul::float_tile::<_, 4, 6, 5, 4>;
        gemm_block(b: &Block) = gemm::block::<_, 12, 2>;
        round_panel(layout: Layout, from: &PanelBuffers, subs: usize, out: *mut u32) =
            matmul::round_panel;
        gate_words(act: GateActivation, of: (&[u32], &[u32]), out: *mut u32) =
            rounded_gate::gate_words;
        gate_gradient_words(act: GateActivation, of: [&[u32]; 3], to: [*mut u32; 2]) =
            rounded_gate::gate_gradient_words;
        softmax_tile(tile: &SoftmaxTile) = flash::softmax_tile;
        gradient_tile(tile: &GradientTile) = flash::gradient_tile;
        rows_to_words(w: Words, from: (*const f32, usize), shape: (usize, usize),
            out: (*mut u32, usize)) = gemm::rows_to_words;
        columns_to_words(w: Words, from: (*const f32, usize), shape: (usize, usize),
            out: Steps) = gemm::columns_to_words;
    },
    [#[target_feature(
        enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"
    )]]
);

#[cfg(target_arch = "x86_64")]
pub(super) static AMX: &Kernels = &Kernels {
    isa: Isa::Amx,
    fixed: Some(&crate::amx::FIXED),
    attend: amx_attend,
    gemm_block: amx_gemm_block,
    // `vpdpbf16ps` of processors with AMX has half the speed of float32.
    float_tile: avx512::KERNELS.float_tile,
    panel_tile: amx_panel_tile,
    ..avx512_bf16::KERNELS
};

#[cfg(target_arch = "x86_64")]
unsafe fn amx_attend(task: &HeadTask) {
    // SAFETY: by contract; a table is only used where the CPU has its instructions.
    unsafe { crate::amx::attend(AVX512_BF16, task) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn amx_gemm_block(block: &Block) {
    // SAFETY: as above.
    unsafe { crate::amx::gemm_block(AVX512_BF16, block) }
}

#[cfg(target_arch = "x86_64")]
unsafe fn amx_panel_tile(tile: &PanelTile) {
    // SAFETY: as above.
    unsafe { crate::amx::panel_tile(AVX512_BF16, tile) }
}
