//! Products: every storage and instruction set against f64, and the invariance contracts.

use crate::support::{Random, bits, tables};
use puna_kernels::{
    Absmax, BlockFormat, CodebookMatrix, Fp8Matrix, GroupMatrix, GroupPanels, GroupQuants,
    GroupZeros, Input, InputBuffers, Kernels, Matrix, MatrixData, Output, Precision,
    nibble_row_bytes, pack_groups, pack_panels, panel_bytes, with_threads,
};

/// f32 rounding over a few hundred terms.
pub(crate) const EXACT: f64 = 2e-6;
/// Eight-bit activations in blocks of 32 or 256: uniform rounding error about 1 / (127 sqrt 12) of the
/// block's maximum, which is two to four standard deviations.
const EIGHT_BIT: f64 = 0.012;
/// Activations rounded to bfloat16: 2^-9 / sqrt 3 at most.
pub(crate) const BF16: f64 = 0.003;

/// Random bytes of a block format whose scales are of a sensible size.
pub(crate) fn random_blocks(random: &mut Random, format: BlockFormat, blocks: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..blocks {
        let mut block = random.bytes(format.block_bytes());
        match format {
            BlockFormat::F32 => block.copy_from_slice(&random.normal().to_le_bytes()),
            BlockFormat::BF16 => {
                block.copy_from_slice(&half::bf16::from_f32(random.normal()).to_le_bytes());
            }
            _ => {}
        }
        for &at in halfs(format) {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(random.normal()).to_le_bytes());
        }
        bytes.extend(block);
    }
    bytes
}

/// Where the f16 scales and minimums of a block lie.
fn halfs(format: BlockFormat) -> &'static [usize] {
    match format {
        BlockFormat::F32 | BlockFormat::BF16 => &[],
        BlockFormat::F16
        | BlockFormat::Q4_0
        | BlockFormat::Q5_0
        | BlockFormat::Q8_0
        | BlockFormat::Iq4Nl => &[0],
        BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
        BlockFormat::Q2K => &[80, 82],
        BlockFormat::Q3K => &[108],
        BlockFormat::Q6K => &[208],
    }
}

/// `x Wᵀ` in f64 from dequantized rows, each with `|x| |w|`, the scale of its errors.
pub(crate) fn reference(w: &Matrix, x: &[f32]) -> Vec<(f64, f64)> {
    let mut rows = vec![vec![0.0; w.cols]; w.rows];
    for (i, row) in rows.iter_mut().enumerate() {
        w.dequantize_row(i, row);
    }
    let dot = |x: &[f32], w: &[f32]| -> f64 {
        x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
    };
    let norm = |x: &[f32]| dot(x, x).sqrt();
    let pair = |x: &[f32], w: &[f32]| (dot(x, w), norm(x) * norm(w));
    x.chunks(w.cols).flat_map(|x| rows.iter().map(move |w| pair(x, w))).collect()
}

/// Root mean square of the errors in units of their scale.
pub(crate) fn relative_error(got: &[f32], expected: &[(f64, f64)]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let square = |(&got, &(value, scale)): (&f32, &(f64, f64))| -> f64 {
        ((f64::from(got) - value) / scale).powi(2)
    };
    let sum: f64 = got.iter().zip(expected).map(square).sum();
    (sum / got.len() as f64).sqrt()
}

pub(crate) fn product(
    kernels: &'static Kernels,
    w: &Matrix,
    x: &[f32],
    precision: Precision,
) -> Vec<f32> {
    let mut y = vec![f32::NAN; x.len() / w.cols * w.rows];
    kernels.matmul(w, x, &mut y, precision);
    y
}

/// Close to the reference; the same one by one, in odd batches and without the thread pool.
fn check(w: &Matrix, tokens: usize, fast: f64, name: &str) {
    w.validate().expect("valid matrix");
    let x = Random(7).normals(tokens * w.cols);
    let expected = reference(w, &x);
    for kernels in tables() {
        for (precision, tolerance) in [(Precision::Exact, EXACT), (Precision::Fast, fast)] {
            let y = product(kernels, w, &x, precision);
            let error = relative_error(&y, &expected);
            let what = format!("{name} {:?} {precision:?} {}x{}", kernels.isa(), w.rows, w.cols);
            assert!(error <= tolerance, "{what}: relative error {error}");
            for batch in [1, 3] {
                let parts = x.chunks(batch * w.cols);
                let parts: Vec<f32> =
                    parts.flat_map(|x| product(kernels, w, x, precision)).collect();
                assert!(bits(&y) == bits(&parts), "{what}: batches of {batch} differ");
            }
            let alone = with_threads(1, || product(kernels, w, &x, precision));
            assert!(bits(&y) == bits(&alone), "{what}: the number of threads matters");
        }
    }
}

#[test]
fn block_products_match_f64_and_do_not_depend_on_batch_or_threads() {
    let mut random = Random(1);
    for &format in BlockFormat::ALL {
        let fast = match format {
            BlockFormat::F32 | BlockFormat::F16 => EXACT,
            BlockFormat::BF16 => BF16,
            _ => EIGHT_BIT,
        };
        for (rows, blocks, tokens) in [(1, 1, 1), (37, 3, 11), (130, 5, 2), (16, 9, 20)] {
            let bytes = random_blocks(&mut random, format, rows * blocks);
            let cols = blocks * format.block_len();
            let data = MatrixData::Block { format, bytes: &bytes, scales: None };
            check(&Matrix { rows, cols, data }, tokens, fast, format.name());
        }
    }
}

#[test]
fn panels_hold_the_same_weights_and_give_the_same_bits_as_rows() {
    let mut random = Random(8);
    for &format in BlockFormat::ALL {
        for (rows, blocks, tokens) in [(3, 1, 1), (37, 3, 11), (64, 5, 2), (130, 4, 1)] {
            let bytes = random_blocks(&mut random, format, rows * blocks);
            let cols = blocks * format.block_len();
            let Some(size) = panel_bytes(format, rows, cols) else {
                assert_eq!(format.block_len(), 1, "only floats have no panels");
                continue;
            };
            let mut packed = vec![0; size];
            pack_panels(format, (rows, cols), &bytes, &mut packed).expect("sizes agree");
            let data = MatrixData::Block { format, bytes: &bytes, scales: None };
            let plain = Matrix { rows, cols, data };
            let panels = Matrix { data: MatrixData::Panels { format, bytes: &packed }, ..plain };
            panels.validate().expect("valid panels");
            let x = random.normals(tokens * cols);
            let mut row = [vec![0.0; cols], vec![0.0; cols]];
            for i in 0..rows {
                plain.dequantize_row(i, &mut row[0]);
                panels.dequantize_row(i, &mut row[1]);
                assert!(bits(&row[0]) == bits(&row[1]), "{format:?} row {i}");
            }
            check(&panels, tokens, EIGHT_BIT, format.name());
            if rows >= 16 {
                for kernels in tables() {
                    let y = product(kernels, &plain, &x, Precision::Fast);
                    let of_panels = product(kernels, &panels, &x, Precision::Fast);
                    assert!(bits(&y) == bits(&of_panels), "{format:?} {:?}", kernels.isa());
                }
            }
        }
    }
}

#[test]
fn packing_refuses_floats_and_wrong_sizes() {
    let mut out = [0; 18 * 16];
    let q4_0 = BlockFormat::Q4_0;
    assert!(pack_panels(BlockFormat::BF16, (1, 32), &[0; 64], &mut out).is_err());
    assert!(pack_panels(q4_0, (1, 32), &[0; 17], &mut out).is_err());
    assert!(pack_panels(q4_0, (1, 33), &[0; 18], &mut out).is_err());
    assert!(pack_panels(q4_0, (1, 32), &[0; 18], &mut out[1..]).is_err());
    assert!(pack_panels(q4_0, (1, 32), &[0; 18], &mut out).is_ok());
    // Rows without columns have heads and nothing else.
    assert!(pack_panels(BlockFormat::Q8_0, (1, 0), &[], &mut out[..64]).is_ok());
}

#[test]
fn float_products_take_any_number_of_columns() {
    let mut random = Random(2);
    for format in [BlockFormat::F32, BlockFormat::F16, BlockFormat::BF16] {
        let fast = if format == BlockFormat::BF16 { BF16 } else { EXACT };
        for cols in [1, 15, 31, 33, 100, 1025, 2049, 4100] {
            let bytes = random_blocks(&mut random, format, 9 * cols);
            let data = MatrixData::Block { format, bytes: &bytes, scales: None };
            check(&Matrix { rows: 9, cols, data }, 9, fast, format.name());
        }
    }
}

#[test]
fn group_products_match_f64_with_and_without_act_order() {
    let mut random = Random(3);
    // (cols, group size): the third and fourth fall back to f32.
    for (cols, group_size) in [(128, 32), (96, 96), (72, 24), (75, 32), (640, 1000)] {
        let rows = 21;
        let groups = cols_groups(cols, group_size) * rows;
        let scales: Vec<f32> = (0..groups).map(|_| 0.1 + random.normal().abs()).collect();
        let zeros = random.bytes(groups).iter().map(|z| z & 15).collect::<Vec<_>>();
        let nibbles = random.bytes(rows * nibble_row_bytes(cols));
        let bytes = random.bytes(rows * cols);
        let signed: Vec<i8> = bytes.iter().map(|b| b.cast_signed()).collect();
        let mut order: Vec<u32> = (0..cols as u32).collect();
        for i in (1..cols).rev() {
            order.swap(i, random.below(i + 1));
        }
        for (quants, zeros) in [
            (GroupQuants::Nibbles(&nibbles), GroupZeros::PerGroup(&zeros)),
            (GroupQuants::Bytes(&bytes), GroupZeros::PerGroup(&zeros)),
            (GroupQuants::Signed(&signed), GroupZeros::Zero),
        ] {
            // In panels, scales that are halfs take half the memory.
            let halfs: Vec<f32> = scales.iter().map(|s| (s * 64.0).round() / 64.0).collect();
            let orders = [None, Some(order.as_slice())];
            for (input_order, scales) in orders.into_iter().zip([&scales, &halfs]) {
                let group = GroupMatrix { quants, scales, zeros, group_size, input_order };
                let matrix = Matrix { rows, cols, data: MatrixData::Group(group) };
                check(&matrix, 5, EIGHT_BIT, "group");
                let Some(packed) = pack_groups((rows, cols), &group) else { continue };
                let panels = GroupPanels {
                    bits: packed.bits,
                    scales: packed.scales,
                    bytes: &packed.bytes,
                    group_size,
                    input_order,
                };
                let packed = Matrix { rows, cols, data: MatrixData::GroupPanels(panels) };
                check(&packed, 5, EIGHT_BIT, "group panels");
                let x = random.normals(2 * cols);
                for kernels in tables() {
                    for precision in [Precision::Exact, Precision::Fast] {
                        let y = product(kernels, &matrix, &x, precision);
                        assert!(
                            crate::support::bits(&y)
                                == crate::support::bits(&product(kernels, &packed, &x, precision))
                        );
                    }
                }
            }
        }
    }
}

fn cols_groups(cols: usize, group_size: usize) -> usize {
    cols.div_ceil(group_size)
}

#[test]
fn act_order_moves_stored_columns_to_their_inputs() {
    let group = GroupMatrix {
        quants: GroupQuants::Bytes(&[1, 2, 3]),
        scales: &[2.0, 10.0],
        zeros: GroupZeros::PerGroup(&[1, 0]),
        group_size: 2,
        input_order: Some(&[2, 0, 1]),
    };
    let w = Matrix { rows: 1, cols: 3, data: MatrixData::Group(group) };
    let mut row = [0.0; 3];
    w.dequantize_row(0, &mut row);
    assert_eq!(row, [2.0, 30.0, 0.0]);
    let mut y = [0.0];
    puna_kernels::matmul(&w, &[1.0, 10.0, 100.0], &mut y, Precision::Fast);
    assert_eq!(y, [302.0]);
}

#[test]
fn codebook_and_fp8_products_match_f64() {
    let mut random = Random(4);
    for (rows, cols, block) in [(7usize, 64usize, 64), (5, 33, 64), (3, 200, 16)] {
        let codebook: [f32; 16] = std::array::from_fn(|i| i as f32 / 7.5 - 1.0);
        let nibbles = random.bytes((rows * cols).div_ceil(2));
        let blocks = (rows * cols).div_ceil(block);
        let (single, quants) = (random.normals(blocks), random.bytes(blocks));
        let (code, absmax) = (random.normals(256), random.normals(blocks.div_ceil(4)));
        let nested =
            Absmax::Nested { quants: &quants, code: &code, absmax: &absmax, block: 4, offset: 0.3 };
        for absmax in [Absmax::Single(&single), nested] {
            let book = CodebookMatrix { nibbles: &nibbles, codebook: &codebook, absmax, block };
            let data = MatrixData::Codebook(book);
            check(&Matrix { rows, cols, data }, 3, EXACT, "codebook");
        }
        // 0x7f and 0xff are NaN.
        let bytes: Vec<u8> = random.bytes(rows * cols).iter().map(|b| b & 0xbf).collect();
        let scales = random.normals(rows.div_ceil(2) * cols.div_ceil(32));
        let fp8 = Fp8Matrix { bytes: &bytes, scales: &scales, block: [2, 32] };
        check(&Matrix { rows, cols, data: MatrixData::Fp8(fp8) }, 3, EXACT, "fp8");
    }
}

#[test]
fn products_pass_nan_and_infinity_on() {
    let mut random = Random(5);
    for format in [BlockFormat::F32, BlockFormat::BF16, BlockFormat::Q8_0, BlockFormat::Q4K] {
        let cols = 256;
        let bytes = random_blocks(&mut random, format, 4 * cols / format.block_len());
        let w = Matrix {
            rows: 4,
            cols,
            data: MatrixData::Block { format, bytes: &bytes, scales: None },
        };
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.normals(2 * cols);
            x[cols + 40] = bad;
            for kernels in tables() {
                let y = product(kernels, &w, &x, Precision::Fast);
                assert!(y[..4].iter().all(|y| y.is_finite()), "{format:?} {:?}", kernels.isa());
                assert!(y[4..].iter().all(|y| !y.is_finite()), "{format:?} {:?}", kernels.isa());
            }
        }
    }
}

#[test]
fn products_are_bitwise_the_same_in_a_large_batch_on_many_threads() {
    let mut random = Random(6);
    use BlockFormat::{BF16, Q4_0, Q6K, Q8_0};
    for format in [BF16, Q4_0, Q6K, Q8_0] {
        let (rows, cols, tokens) = (200, 768, 70);
        let bytes = random_blocks(&mut random, format, rows * cols / format.block_len());
        let w =
            Matrix { rows, cols, data: MatrixData::Block { format, bytes: &bytes, scales: None } };
        let x = random.normals(tokens * cols);
        let kernels = Kernels::get();
        let y = with_threads(5, || product(kernels, &w, &x, Precision::Fast));
        for (x, y) in x.chunks(cols).zip(y.chunks(rows)) {
            assert!(bits(y) == bits(&product(kernels, &w, x, Precision::Fast)), "{format:?}");
        }
    }
}

/// Integers as large as bytes can make them: nothing overflows on the way to a superblock's end, in
/// vectors or in tiles.
#[test]
fn superblocks_of_the_largest_integers() {
    use BlockFormat::{Q2K, Q3K, Q4K, Q5K, Q6K};
    for format in [Q2K, Q3K, Q4K, Q5K, Q6K] {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let (rows, cols, tokens) = (32, 512, 17);
            let mut bytes = vec![fill; rows * cols / 256 * format.block_bytes()];
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                for &at in halfs(format) {
                    block[at..at + 2].copy_from_slice(&half::f16::from_f32(1.0).to_le_bytes());
                }
            }
            let w = Matrix {
                rows,
                cols,
                data: MatrixData::Block { format, bytes: &bytes, scales: None },
            };
            // Quants of 127 and -127, of one sign in whole sub-blocks and superblocks, and mixed.
            // And of 64 and -64, whose sums with Q6_K's quants are just more than 16 bits hold.
            for (period, other) in
                [1, 16, 32, 512, 1024].into_iter().flat_map(|p| [(p, 127.0), (p, 64.0)])
            {
                let sign = |i: usize| if (i / period).is_multiple_of(2) { 1.0f32 } else { -1.0 };
                let value = |i: usize| {
                    if i.is_multiple_of(256) { sign(i) } else { sign(i) * other / 127.0 }
                };
                let x: Vec<f32> = (0..tokens * cols).map(value).collect();
                let expected = reference(&w, &x);
                for kernels in tables() {
                    let y = product(kernels, &w, &x, Precision::Fast);
                    let what = format!("{format:?} {:?} {fill:#x} {period} {other}", kernels.isa());
                    for (x, y) in x.chunks(cols).zip(y.chunks(rows)) {
                        assert!(
                            bits(y) == bits(&product(kernels, &w, x, Precision::Fast)),
                            "{what}"
                        );
                    }
                    for (y, (value, _)) in y.iter().zip(&expected) {
                        let error = (f64::from(*y) - value).abs();
                        // Ones are 127 times a rounded scale.
                        assert!(error <= 1e-6 * value.abs() + 1e-3, "{what}: {y}, not {value}");
                    }
                }
            }
        }
    }
}

/// With AMX sums of 16-bit integers: the largest there can be, one row of tiles more than whole steps, and
/// blocks far below the largest of their row.
#[test]
fn q8_0_with_the_largest_integers_and_uneven_scales() {
    let format = BlockFormat::Q8_0;
    for (cols, tokens) in [(32, 1), (288, 17), (1056, 40), (4128, 3)] {
        for fill in [0x80, 0x7f, 0x81] {
            for scales in [[1.0, 1.0], [-1.0, 1.0], [1.0, 1e-4], [0.0, 0.0]] {
                let rows = 48;
                let mut bytes = vec![fill; rows * cols / 32 * format.block_bytes()];
                for (i, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
                    let scale = half::f16::from_f32(scales[i % 2]);
                    block[..2].copy_from_slice(&scale.to_le_bytes());
                }
                let w = Matrix {
                    rows,
                    cols,
                    data: MatrixData::Block { format, bytes: &bytes, scales: None },
                };
                for period in [1, 32, 4096] {
                    let sign =
                        |i: usize| if (i / period).is_multiple_of(2) { 1.0f32 } else { -1.0 };
                    let x: Vec<f32> = (0..tokens * cols).map(sign).collect();
                    let expected = reference(&w, &x);
                    for kernels in tables() {
                        let y = product(kernels, &w, &x, Precision::Fast);
                        let what = format!("{:?} {cols} {fill:#x} {scales:?}", kernels.isa());
                        for (y, (value, scale)) in y.iter().zip(&expected) {
                            let error = (f64::from(*y) - value).abs();
                            assert!(error <= 2e-4 * scale, "{what}: {y}, not {value}");
                        }
                        for (x, y) in x.chunks(cols).zip(y.chunks(rows)) {
                            let one = product(kernels, &w, x, Precision::Fast);
                            assert!(bits(y) == bits(&one), "{what}");
                        }
                    }
                }
            }
        }
    }
}

/// With AMX neither weights nor activations are rounded to 8 bits, which one large column in each token
/// does not change.
#[test]
fn q8_0_with_amx_is_more_exact_than_8_bits() {
    let mut random = Random(20);
    let (rows, cols, format) = (256, 2048, BlockFormat::Q8_0);
    let bytes = random_blocks(&mut random, format, rows * cols / 32);
    let w = Matrix { rows, cols, data: MatrixData::Block { format, bytes: &bytes, scales: None } };
    for outlier in [1.0, 100.0] {
        let mut x = random.normals(20 * cols);
        x.iter_mut().skip(77).step_by(cols).for_each(|x| *x *= outlier);
        let expected = reference(&w, &x);
        for kernels in tables() {
            let error = relative_error(&product(kernels, &w, &x, Precision::Fast), &expected);
            let bound = if kernels.isa() == puna_kernels::Isa::Amx { 2e-5 } else { EIGHT_BIT };
            assert!(error < bound, "{:?}, outlier {outlier}: {error}", kernels.isa());
        }
    }
}

#[test]
fn products_of_one_input_are_those_of_each_alone_and_can_be_added() {
    let mut random = Random(9);
    let (cols, tokens) = (512, 3);
    let order: Vec<u32> = (0..cols as u32).rev().collect();
    let nibbles = random.bytes(24 * nibble_row_bytes(cols));
    let scales = random.normals(24 * 4);
    let blocks = |random: &mut Random, format: BlockFormat, rows: usize| {
        random_blocks(random, format, rows * cols / format.block_len())
    };
    let stored = [
        (BlockFormat::Q4K, 40, blocks(&mut random, BlockFormat::Q4K, 40)),
        (BlockFormat::Q8_0, 7, blocks(&mut random, BlockFormat::Q8_0, 7)),
        (BlockFormat::BF16, 33, blocks(&mut random, BlockFormat::BF16, 33)),
        (BlockFormat::Q6K, 16, blocks(&mut random, BlockFormat::Q6K, 16)),
    ];
    let mut matrices: Vec<Matrix> = stored
        .iter()
        .map(|(format, rows, bytes)| {
            let data = MatrixData::Block { format: *format, bytes, scales: None };
            Matrix { rows: *rows, cols, data }
        })
        .collect();
    matrices.push(Matrix {
        rows: 24,
        cols,
        data: MatrixData::Group(GroupMatrix {
            quants: GroupQuants::Nibbles(&nibbles),
            scales: &scales,
            zeros: GroupZeros::Zero,
            group_size: 128,
            input_order: Some(&order),
        }),
    });
    let x = random.normals(tokens * cols);
    for precision in [Precision::Exact, Precision::Fast] {
        let mut buffers = InputBuffers::default();
        for round in 0..2 {
            let mut outputs: Vec<Vec<f32>> =
                matrices.iter().map(|w| vec![0.5; tokens * w.rows]).collect();
            let mut products: Vec<_> = matrices
                .iter()
                .zip(&mut outputs)
                .map(|(w, y)| (*w, if round == 0 { Output::Set(y) } else { Output::Add(y) }))
                .collect();
            Input::new(&x, &mut buffers).matmul_all(&mut products, precision);
            for (w, y) in matrices.iter().zip(&outputs) {
                let alone = product(Kernels::get(), w, &x, precision);
                let same = y.iter().zip(&alone).all(|(y, alone)| match round {
                    0 => y.to_bits() == alone.to_bits(),
                    _ => (y - 0.5 - alone).abs() <= 1e-4 * (1.0 + alone.abs()),
                });
                assert!(same, "{:?} {precision:?} round {round}", w.rows);
            }
        }
    }
}
