//! Products of prompts in tiles of bfloat16, where a machine has them: against f64, and on any number
//! of threads. Other instruction sets go their own way, which the same bounds hold for.

use crate::matmul::{BF16, EXACT, product, random_blocks, reference, relative_error};
use crate::support::{Random, bits, tables};
use puna_kernels::{
    BlockFormat, GroupMatrix, GroupPanels, GroupQuants, GroupZeros, Input, InputBuffers, Isa,
    Kernels, Matrix, MatrixData, Output, Precision, nibble_row_bytes, pack_groups, pack_panels,
    panel_bytes, with_threads,
};

/// Weights and activations rounded to bfloat16.
const BOTH_ROUNDED: f64 = 1.5 * BF16;

/// Within bounds; the same on any number of threads, and when it is added.
fn check(w: &Matrix, tokens: usize, (precision, bound): (Precision, f64), name: &str) {
    w.validate().expect("valid matrix");
    let x = Random(7).normals(tokens * w.cols);
    let expected = reference(w, &x);
    for kernels in tables() {
        let run = |threads: usize, y: Output<'_>| {
            with_threads(threads, || in_tiles(kernels, &mut [(*w, y)], &x, precision));
        };
        let mut y = vec![f32::NAN; tokens * w.rows];
        let mut alone = y.clone();
        run(3, Output::Set(&mut y));
        run(1, Output::Set(&mut alone));
        let what = format!("{name} {:?} {precision:?} {}x{}", kernels.isa(), w.rows, w.cols);
        let error = relative_error(&y, &expected);
        let bound = if kernels.isa() == Isa::Amx { bound } else { bound.max(EIGHT_BIT) };
        assert!(error <= bound, "{what}: relative error {error}");
        assert!(bits(&y) == bits(&alone), "{what}: the number of threads matters");
        run(2, Output::Add(&mut y));
        let twice =
            y.iter().zip(&alone).all(|(y, x)| (y - 2.0 * x).abs() <= 1e-3 * (1.0 + x.abs()));
        assert!(twice, "{what}: added");
    }
}

/// See `matmul.rs`: what other instruction sets round quantized weights' activations to.
const EIGHT_BIT: f64 = 0.012;

fn in_tiles(
    kernels: &'static Kernels,
    products: &mut [(Matrix, Output<'_>)],
    x: &[f32],
    precision: Precision,
) {
    let mut buffers = InputBuffers::default();
    let input = Input::with_kernels(kernels, x, &mut buffers).in_tiles(true);
    input.matmul_all(products, precision);
}

#[test]
fn bfloat16_weights() {
    let mut random = Random(10);
    let format = BlockFormat::BF16;
    for (rows, cols, tokens) in [(70, 130, 9), (5, 64, 33), (300, 2400, 40), (33, 77, 20)] {
        let bytes = random_blocks(&mut random, format, rows * cols);
        let w =
            Matrix { rows, cols, data: MatrixData::Block { format, bytes: &bytes, scales: None } };
        check(&w, tokens, (Precision::Fast, BF16), "BF16");
        check(&w, tokens, (Precision::Exact, EXACT), "BF16");
    }
}

/// Halves of panels, pieces of the inner dimension that end within a chunk, and rows that are no whole
/// panels.
#[test]
fn quantized_weights_as_rows_and_as_panels() {
    let mut random = Random(11);
    let formats = BlockFormat::ALL.iter().filter(|format| format.block_len() > 1);
    for &format in formats {
        let len = format.block_len();
        for (rows, cols, tokens) in [(48, 512, 33), (64, 2560 + len, 40), (37, 256, 32)] {
            let bytes = random_blocks(&mut random, format, rows * cols / len);
            let data = MatrixData::Block { format, bytes: &bytes, scales: None };
            let w = Matrix { rows, cols, data };
            check(&w, tokens, (Precision::Fast, bound(rows)), format.name());
            let mut packed = vec![0; panel_bytes(format, rows, cols).expect("panels")];
            pack_panels(format, (rows, cols), &bytes, &mut packed).expect("sizes agree");
            let panels = Matrix { data: MatrixData::Panels { format, bytes: &packed }, ..w };
            check(&panels, tokens, (Precision::Fast, bound(rows)), format.name());
            let x = random.normals(tokens * cols);
            for kernels in tables() {
                let [mut a, mut b] = [vec![0.0; tokens * rows], vec![0.0; tokens * rows]];
                in_tiles(kernels, &mut [(w, Output::Set(&mut a))], &x, Precision::Fast);
                in_tiles(kernels, &mut [(panels, Output::Set(&mut b))], &x, Precision::Fast);
                assert!(bits(&a) == bits(&b), "{format:?}: rows and panels differ");
            }
        }
    }
}

fn bound(rows: usize) -> f64 {
    if rows.is_multiple_of(16) { BOTH_ROUNDED } else { EIGHT_BIT }
}

/// In one call with weights that do not go in tiles, in the same act-order.
#[test]
fn groups_in_act_order_beside_other_ways() {
    let mut random = Random(12);
    let (cols, tokens, group_size) = (384, 35, 128);
    let order: Vec<u32> = (0..cols as u32).map(|i| (i * 7 + 3) % cols as u32).collect();
    for input_order in [None, Some(order.as_slice())] {
        let make = |random: &mut Random, rows: usize| {
            let nibbles = random.bytes(rows * nibble_row_bytes(cols));
            // Halfs, so that panels can be made of them.
            let scales: Vec<f32> = random.normals(rows * 3);
            let scales: Vec<f32> = scales.iter().map(|s| (s * 64.0).round() / 64.0).collect();
            (rows, nibbles, scales)
        };
        let stored = [48, 37, 64].map(|rows| make(&mut random, rows));
        let groups: Vec<Matrix> = stored
            .iter()
            .map(|(rows, nibbles, scales)| {
                let quants = GroupQuants::Nibbles(nibbles);
                let zeros = GroupZeros::Zero;
                let group = GroupMatrix { quants, scales, zeros, group_size, input_order };
                Matrix { rows: *rows, cols, data: MatrixData::Group(group) }
            })
            .collect();
        for w in &groups {
            check(w, tokens, (Precision::Fast, bound(w.rows)), "group");
            let MatrixData::Group(group) = &w.data else { unreachable!("made above") };
            let packed = pack_groups((w.rows, cols), group).expect("panels");
            let panels = GroupPanels {
                bits: packed.bits,
                scales: packed.scales,
                bytes: &packed.bytes,
                group_size,
                input_order,
            };
            let panels = Matrix { data: MatrixData::GroupPanels(panels), ..*w };
            check(&panels, tokens, (Precision::Fast, bound(w.rows)), "group panels");
        }
        let x = random.normals(tokens * cols);
        for kernels in tables() {
            let mut together: Vec<_> = groups.iter().map(|w| vec![0.0; tokens * w.rows]).collect();
            let mut products: Vec<_> =
                groups.iter().zip(&mut together).map(|(w, y)| (*w, Output::Set(y))).collect();
            in_tiles(kernels, &mut products, &x, Precision::Fast);
            for (w, y) in groups.iter().zip(&together) {
                let mut alone = vec![0.0; y.len()];
                in_tiles(kernels, &mut [(*w, Output::Set(&mut alone))], &x, Precision::Fast);
                assert!(bits(y) == bits(&alone), "{:?} {} rows", kernels.isa(), w.rows);
            }
        }
    }
}

#[test]
fn few_tokens_of_quantized_weights_keep_their_bits() {
    let mut random = Random(13);
    let (rows, cols, tokens, format) = (64, 512, 31, BlockFormat::Q4K);
    let bytes = random_blocks(&mut random, format, rows * cols / format.block_len());
    let w = Matrix { rows, cols, data: MatrixData::Block { format, bytes: &bytes, scales: None } };
    let x = random.normals(tokens * cols);
    for kernels in tables() {
        let mut y = vec![0.0; tokens * rows];
        in_tiles(kernels, &mut [(w, Output::Set(&mut y))], &x, Precision::Fast);
        assert!(bits(&y) == bits(&product(kernels, &w, &x, Precision::Fast)));
    }
}
