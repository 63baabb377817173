//! CPU kernels on slices and the block formats they read, dispatched at run time.
//!
//! Kernels are pure functions: they know nothing of tensors or models. Each is written once,
//! generically over sixteen lanes ([`Isa`] decides what a lane vector is), wrapped per
//! instruction set and gathered in a [`Kernels`] table; the free functions of this crate use the
//! best table of the machine. The scalar table is the specification.
//!
//! Two contracts hold for every product, norm and attention:
//! - the number of threads never changes a result;
//! - each output is computed by one fixed sequence of operations, so that a token gives bitwise
//!   the same numbers alone, in a batch, in a whole prefill or step by step.
//!
//! Sizes are checked once at the entrance of every safe function; what lies below works on raw
//! pointers, which is why this crate (alone) lifts the workspace's ban on `unsafe`.
#![expect(unsafe_code, reason = "intrinsics and raw pointers; every block states why it is sound")]

mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod blocks;
mod error;
mod flash;
mod format;
mod gemm;
mod kernels;
mod line;
mod logit_loss;
mod machine;
mod math;
mod matmul;
mod matrix;
mod memory;
mod norm;
mod numbers;
mod panels;
mod parallel;
mod pool;
mod quantize;
mod resident;
mod rope;
mod rounded_gate;
mod router;
mod simd;
mod softmax;
mod training;
mod transpose;

pub use activation::{GateActivation, gate_in_place, gated, gated_new, soft_cap};
pub use attention::{
    AttentionMask, AttentionShape, KV_PAGE, KvLayout, KvPage, KvType, KvView, ScoreTransform,
    attention,
};
pub use error::KernelError;
pub use flash::{
    Flash, FlashSaved, RowMask, flash_backward, flash_backward_rounded, flash_forward,
    flash_forward_rounded,
};
pub use format::BlockFormat;
pub use gemm::{
    Elements, Factors, MatRef, PackedMatrix, Right, RoundedRows, Write, gemm, gemm_new, gemm_sum,
    gemm_sum_new, round_rows, rounds_products, takes_rounded,
};
pub use kernels::{Isa, Kernels};
pub use logit_loss::{CrossEntropyRow, consistency_rows, cross_entropy_row};
pub use machine::{IsaPeak, MachineLimits, available_memory};
pub use matmul::{Input, InputBuffers, Output, Precision, matmul, prompt_tiles, set_prompt_tiles};
pub use matrix::{
    Absmax, CodebookMatrix, Fp8Matrix, GroupMatrix, GroupPanels, GroupQuants, GroupZeros, Matrix,
    MatrixData, RowScales, nibble_place, nibble_row_bytes, panel_bytes,
};
pub use memory::{LineAligned, StreamBytes, prepare_heap};
pub use norm::{rms_norm, rms_norm_new};
pub use panels::{GroupScales, PackedGroups, pack_groups, pack_panels};
pub use parallel::{for_each_chunk_mut, zeros};
pub use pool::{set_threads, threads, with_threads};
pub use quantize::{can_quantize, quantize_rows};
pub use resident::{peak_rss_bytes, rss_bytes};
pub use rope::{RopeTable, rope, rope_new, rope_rounded};
pub use router::top_k;
pub use softmax::{argmax, log_softmax, softmax, sum_exp};
pub use training::{
    AdamWStep, adamw, add_in_place, add_new, gated_backward, rms_norm_backward, sum_of_squares,
};
pub use transpose::transpose;
