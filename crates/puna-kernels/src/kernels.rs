//! One table of entry points per instruction set, and the choice among them.
//!
//! The table holds the inner loops; what decides sizes and threads (`matmul.rs`, `attention.rs`,
//! …) is shared. A table is only ever handed out where the CPU has its instructions, which is what
//! makes calling its `unsafe` pointers sound.

mod tables;

use crate::GateActivation;
use crate::attention::{HeadTask, PageWrite};
use crate::blocks::panel::{Blocks, Columns, PanelBuffers, ROWS};
use crate::blocks::{Layout, Unpacked};
use crate::flash::{GradientTile, SoftmaxTile};
use crate::format::BlockFormat;
use crate::gemm::{Block, Steps, Words};
use crate::logit_loss::CrossEntropyRow;
use crate::matmul::{FixedKernels, FloatTile, PanelTile, Place, Sizes};
use crate::training::AdamWStep;

/// Instruction sets with a kernel table, the better ones behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Portable Rust: the specification.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-VNNI, too (Alder Lake and later without AVX-512).
    AvxVnni,
    /// AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake, Ice Lake, Tiger Lake and later).
    Avx512,
    /// BF16, too (Cooper Lake, Sapphire Rapids, Zen 4 and later).
    Avx512Bf16,
    /// AVX-512 and AMX, tiles of bfloat16 and bytes (Sapphire Rapids and later).
    Amx,
}

impl Isa {
    /// Every instruction set, the portable one first.
    pub const ALL: &[Isa] =
        &[Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// How the environment variable `PUNA_ISA` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avxvnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Isa::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && crate::amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => false,
        }
    }
}

/// How the elements of a float product are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FloatPair {
    /// f32 weights, f32 activations.
    F32,
    /// f16 weights, f32 activations.
    F16,
    /// bfloat16 weights, f32 activations.
    Bf16,
    /// bfloat16 weights and activations.
    Bf16Bf16,
}

/// Values to quants, scales, sums and sizes.
type QuantizeActivations = unsafe fn(&[f32], &mut [i8], &mut [f32], (&mut [i32], &mut [Sizes]));

/// Elements and their stride, their shape, words and their stride.
type ToWords = unsafe fn(Words, (*const f32, usize), (usize, usize), (*mut u32, usize));

/// [`ToWords`] of columns.
type ColumnsToWords = unsafe fn(Words, (*const f32, usize), (usize, usize), Steps);

/// [`ColumnsToWords`] of elements that are rounded already.
type RoundedToWords = unsafe fn((*const u16, usize), (usize, usize), Steps);

/// A row with weight and epsilon, its output's gradient, the gradients of row and weight.
type NormGradient = unsafe fn((&[f32], &[f32], f32), &[f32], &mut [f32], &mut [f32]);

/// Two rows of logits, their loss and the factor of their divergence; what comes of them.
type Consistency =
    unsafe fn((&mut [f32], &mut [f32]), (&CrossEntropyRow, f32), &mut (f32, f32, f32));

/// Words of gate and up, and of the output.
type GateWords = unsafe fn(GateActivation, (&[u32], &[u32]), *mut u32);

/// Words of gate, up and gradient, and of the gradients of gate and up.
type GateGradientWords = unsafe fn(GateActivation, [&[u32]; 3], [*mut u32; 2]);

/// Weights, gradient, moments.
type AdamWPart = unsafe fn(&mut [f32], &[f32], (&mut [f32], &mut [f32]), &AdamWStep);

/// The kernels of one instruction set.
pub struct Kernels {
    isa: Isa,
    /// Panels that are multiplied at a time.
    pub(crate) panels: usize,
    /// Columns of a tile of a general product.
    pub(crate) gemm_cols: usize,
    /// Products of Q8_0 in integers of 16 bits; `None` without tiles.
    pub(crate) fixed: Option<&'static FixedKernels>,
    gemm_block: unsafe fn(&Block),
    gate_gradient: unsafe fn(GateActivation, &[f32], &mut [f32], &mut [f32]),
    norm_gradient: NormGradient,
    cross_entropy: unsafe fn(&mut [f32], &CrossEntropyRow, &mut (f32, f32)),
    consistency: Consistency,
    adamw_part: AdamWPart,
    softmax_tile: unsafe fn(&SoftmaxTile),
    gradient_tile: unsafe fn(&GradientTile),
    rows_to_words: ToWords,
    columns_to_words: ColumnsToWords,
    rounded_columns_to_words: RoundedToWords,
    transpose_words: unsafe fn((*const u32, usize), (usize, usize), *mut u32),
    turn_pairs: unsafe fn(&[u32], &mut [u32]),
    float_tile: unsafe fn(FloatPair, &FloatTile),
    panel_tile: unsafe fn(&PanelTile),
    put_sums: unsafe fn(&[f32], Place, usize),
    fill: unsafe fn(&Blocks, &PanelBuffers),
    round_panel: unsafe fn(Layout, &PanelBuffers, usize, *mut u32),
    dot: unsafe fn(&Blocks, &Columns, &mut [f32; ROWS]),
    pack: unsafe fn(BlockFormat, (*const u8, usize), usize, *mut u8),
    unpack: unsafe fn(BlockFormat, &[u8], &mut Unpacked),
    expand: unsafe fn(Layout, &Unpacked, &mut [f32]),
    widen: unsafe fn(BlockFormat, &[u8], &mut [f32]),
    quantize_activations: QuantizeActivations,
    quantize_superblocks: QuantizeActivations,
    round_bf16: unsafe fn(&[f32], &mut [u16]),
    rms_norm_row: unsafe fn(&[f32], &[f32], f32, &mut [f32]),
    gate: unsafe fn(GateActivation, &[f32], &mut [f32]),
    cap: unsafe fn(&mut [f32], f32),
    softmax_row: unsafe fn(&mut [f32]),
    log_softmax_row: unsafe fn(&[f32], &mut [f32]),
    sum_exp_row: unsafe fn(&[f32], f32, &mut f64),
    gate_words: GateWords,
    gate_gradient_words: GateGradientWords,
    attend: unsafe fn(&HeadTask),
    write_page: unsafe fn(&PageWrite),
}

/// Safe doors to the pointers that take only slices.
macro_rules! call {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $(#[$doc])*
        #[inline]
        pub(crate) fn $name(&self, $($arg: $ty),*) {
            // SAFETY: a table is only handed out where its instructions exist; slices are checked.
            unsafe { (self.$name)($($arg),*) }
        }
    )*};
}

impl Kernels {
    /// The best table of this machine, or the best up to the instruction set that the environment
    /// variable `PUNA_ISA` names ([`Isa::name`]); another name there says nothing.
    pub fn get() -> &'static Kernels {
        static BEST: std::sync::OnceLock<&'static Kernels> = std::sync::OnceLock::new();
        BEST.get_or_init(|| {
            let most = std::env::var("PUNA_ISA").ok();
            let most = Isa::ALL.iter().position(|isa| most.as_deref() == Some(isa.name()));
            let wanted = &Isa::ALL[..most.map_or(Isa::ALL.len(), |index| index + 1)];
            let best = wanted.iter().rev().find_map(|&isa| Self::for_isa(isa));
            best.unwrap_or(tables::SCALAR)
        })
    }

    /// The table of an instruction set; `None` where the machine does not have it.
    pub fn for_isa(isa: Isa) -> Option<&'static Kernels> {
        isa.is_available().then_some(match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => tables::AVX2,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => tables::AVX_VNNI,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => tables::AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => tables::AVX512_BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => tables::AMX,
            _ => tables::SCALAR,
        })
    }

    /// The instruction set of this table.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    call! {
        /// See [`crate::blocks::unpack`].
        fn unpack(format: BlockFormat, bytes: &[u8], out: &mut Unpacked);
        /// See [`crate::matrix::expand`].
        fn expand(layout: Layout, from: &Unpacked, out: &mut [f32]);
        /// See [`crate::blocks::widen`].
        fn widen(format: BlockFormat, bytes: &[u8], out: &mut [f32]);
        /// One token; see [`crate::matmul::quantize_activations`].
        fn quantize_activations(x: &[f32], q: &mut [i8], scales: &mut [f32], of: (&mut [i32], &mut [Sizes]));
        /// The same with one scale per superblock.
        fn quantize_superblocks(x: &[f32], q: &mut [i8], scales: &mut [f32], of: (&mut [i32], &mut [Sizes]));
        /// Nearest bfloat16 of every element.
        fn round_bf16(x: &[f32], out: &mut [u16]);
        /// One row.
        fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
        /// Slices of equal length.
        fn gate(act: GateActivation, up: &[f32], gate: &mut [f32]);
        /// `cap tanh(x / cap)`.
        fn cap(x: &mut [f32], cap: f32);
        /// One row.
        fn softmax_row(x: &mut [f32]);
        /// See [`crate::training::gate_gradient`].
        fn gate_gradient(act: GateActivation, up: &[f32], x: &mut [f32], d: &mut [f32]);
        /// One row.
        fn norm_gradient(of: (&[f32], &[f32], f32), dy: &[f32], dx: &mut [f32], dw: &mut [f32]);
        /// One row.
        fn cross_entropy(logits: &mut [f32], row: &CrossEntropyRow, out: &mut (f32, f32));
        /// Two rows of one length.
        fn consistency(rows: (&mut [f32], &mut [f32]), how: (&CrossEntropyRow, f32), out: &mut (f32, f32, f32));
        /// Slices of equal length.
        fn adamw_part(w: &mut [f32], g: &[f32], moments: (&mut [f32], &mut [f32]), step: &AdamWStep);
        /// See [`crate::gemm::turn_pairs`].
        fn turn_pairs(from: &[u32], to: &mut [u32]);
        /// One row.
        fn log_softmax_row(x: &[f32], out: &mut [f32]);
        /// One row.
        fn sum_exp_row(x: &[f32], max: f32, out: &mut f64);
    }

    /// # Safety
    /// The pointers of the tile must cover its shape.
    #[inline]
    pub(crate) unsafe fn float_tile(&self, pair: FloatPair, tile: &FloatTile) {
        // SAFETY: a table is only handed out where its instructions exist; the caller vouches for
        // the pointers.
        unsafe { (self.float_tile)(pair, tile) }
    }

    /// # Safety
    /// The pointers of the tile must cover its shape.
    #[inline]
    pub(crate) unsafe fn panel_tile(&self, tile: &PanelTile) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.panel_tile)(tile) }
    }

    /// # Safety
    /// As for [`crate::matmul::put_sums`].
    #[inline]
    pub(crate) unsafe fn put_sums(&self, sums: &[f32], to: Place, rows: usize) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.put_sums)(sums, to, rows) }
    }

    /// # Safety
    /// As for [`crate::blocks::panel::fill`].
    #[inline]
    pub(crate) unsafe fn fill(&self, blocks: &Blocks, to: &PanelBuffers) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.fill)(blocks, to) }
    }

    /// # Safety
    /// As for [`crate::matmul::round_panel`].
    #[inline]
    pub(crate) unsafe fn round_panel(
        &self,
        layout: Layout,
        from: &PanelBuffers,
        subs: usize,
        out: *mut u32,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.round_panel)(layout, from, subs, out) }
    }

    /// # Safety
    /// As for [`crate::blocks::panel::dot`].
    #[inline]
    pub(crate) unsafe fn dot(&self, blocks: &Blocks, x: &Columns, out: &mut [f32; ROWS]) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.dot)(blocks, x, out) }
    }

    /// # Safety
    /// As for [`crate::blocks::panel::pack`].
    #[inline]
    pub(crate) unsafe fn pack(
        &self,
        format: BlockFormat,
        rows: (*const u8, usize),
        blocks: usize,
        out: *mut u8,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.pack)(format, rows, blocks, out) }
    }

    /// # Safety
    /// As for [`crate::rounded_gate::gate_words`].
    #[inline]
    pub(crate) unsafe fn gate_words(
        &self,
        act: GateActivation,
        of: (&[u32], &[u32]),
        out: *mut u32,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.gate_words)(act, of, out) }
    }

    /// # Safety
    /// As for [`crate::rounded_gate::gate_gradient_words`].
    #[inline]
    pub(crate) unsafe fn gate_gradient_words(
        &self,
        act: GateActivation,
        of: [&[u32]; 3],
        to: [*mut u32; 2],
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.gate_gradient_words)(act, of, to) }
    }

    /// # Safety
    /// The pointers of the task must cover its shape.
    #[inline]
    pub(crate) unsafe fn attend(&self, task: &HeadTask) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.attend)(task) }
    }

    /// # Safety
    /// The pointers must cover the page and the tokens, which fit into it.
    #[inline]
    pub(crate) unsafe fn write_page(&self, write: &PageWrite) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.write_page)(write) }
    }

    /// # Safety
    /// The pointers of the block must cover its shape.
    #[inline]
    pub(crate) unsafe fn gemm_block(&self, block: &Block) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.gemm_block)(block) }
    }

    /// # Safety
    /// As for [`crate::gemm::rows_to_words`].
    #[inline]
    pub(crate) unsafe fn rows_to_words(
        &self,
        words: Words,
        from: (*const f32, usize),
        shape: (usize, usize),
        out: (*mut u32, usize),
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.rows_to_words)(words, from, shape, out) }
    }

    /// # Safety
    /// As for [`crate::gemm::columns_to_words`].
    #[inline]
    pub(crate) unsafe fn columns_to_words(
        &self,
        words: Words,
        from: (*const f32, usize),
        shape: (usize, usize),
        out: Steps,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.columns_to_words)(words, from, shape, out) }
    }

    /// # Safety
    /// As for [`crate::gemm::rounded_columns_to_words`].
    #[inline]
    pub(crate) unsafe fn rounded_columns_to_words(
        &self,
        from: (*const u16, usize),
        shape: (usize, usize),
        out: Steps,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.rounded_columns_to_words)(from, shape, out) }
    }

    /// # Safety
    /// As for [`crate::gemm::transpose_words`].
    #[inline]
    pub(crate) unsafe fn transpose_words(
        &self,
        from: (*const u32, usize),
        shape: (usize, usize),
        out: *mut u32,
    ) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.transpose_words)(from, shape, out) }
    }

    /// # Safety
    /// The pointers of the tile must cover its shape.
    #[inline]
    pub(crate) unsafe fn softmax_tile(&self, tile: &SoftmaxTile) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.softmax_tile)(tile) }
    }

    /// # Safety
    /// The pointers of the tile must cover its shape.
    #[inline]
    pub(crate) unsafe fn gradient_tile(&self, tile: &GradientTile) {
        // SAFETY: as in `float_tile`.
        unsafe { (self.gradient_tile)(tile) }
    }
}
