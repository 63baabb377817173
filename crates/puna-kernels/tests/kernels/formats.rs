//! Block formats against gguf-py (`make_blocks.py`), bit for bit, and the errors of bad shapes.

use crate::support::{bits, tables};
use puna_kernels::{
    Absmax, BlockFormat, CodebookMatrix, Fp8Matrix, GroupMatrix, GroupQuants, GroupZeros,
    KernelError, Matrix, MatrixData, can_quantize, quantize_rows,
};

const BLOCKS: &str = include_str!("blocks.txt");

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// Format, block bytes and values of the lines of a kind.
fn lines(kind: &str) -> Vec<(BlockFormat, Vec<u8>, Vec<f32>)> {
    let line = |line: &str| {
        let [what, name, bytes, values] = *line.split(' ').collect::<Vec<_>>() else {
            panic!("four fields: {line}")
        };
        let format = *BlockFormat::ALL.iter().find(|f| f.name() == name).expect("a format");
        let values = bytes_of(values);
        let values = values.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (what == kind).then(|| (format, bytes_of(bytes), values))
    };
    BLOCKS.lines().filter_map(line).collect()
}

#[test]
fn dequantized_blocks_are_bitwise_those_of_gguf_py() {
    let lines = lines("dequantize");
    assert_eq!(lines.len(), 11, "every quantized format");
    for (format, bytes, values) in lines {
        let cols = values.len();
        let w = Matrix {
            rows: 1,
            cols,
            data: MatrixData::Block { format, bytes: &bytes, scales: None },
        };
        for kernels in tables() {
            let mut row = vec![f32::NAN; cols];
            kernels.dequantize_row(&w, 0, &mut row);
            let what = format!("{} {:?}", format.name(), kernels.isa());
            for (i, (got, expected)) in row.iter().zip(&values).enumerate() {
                assert!(
                    got.to_bits() == expected.to_bits(),
                    "{what}: weight {i} is {got}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn quantized_rows_are_bitwise_those_of_gguf_py() {
    let lines = lines("quantize");
    assert_eq!(lines.len(), 4);
    for (format, expected, values) in lines {
        for cols in [32, 96] {
            let mut bytes = vec![7];
            quantize_rows(format, &values, cols, &mut bytes).expect("quantizable");
            assert!(bytes[0] == 7 && bytes[1..] == expected, "{}", format.name());
        }
    }
}

#[test]
fn every_float_value_survives_its_own_format() {
    let values = [0.0, -0.0, 1.5, -3.0e-5, f32::INFINITY, 65504.0];
    for format in [BlockFormat::F32, BlockFormat::F16, BlockFormat::BF16] {
        let mut bytes = Vec::new();
        quantize_rows(format, &values, values.len(), &mut bytes).expect("quantizable");
        let data = MatrixData::Block { format, bytes: &bytes, scales: None };
        let w = Matrix { rows: 1, cols: values.len(), data };
        let mut row = vec![0.0; values.len()];
        w.dequantize_row(0, &mut row);
        let mut again = Vec::new();
        quantize_rows(format, &row, values.len(), &mut again).expect("quantizable");
        assert_eq!(bytes, again, "{}", format.name());
        assert_eq!(bits(&row[..3]), bits(&values[..3]), "{}", format.name());
    }
}

#[test]
fn quantizing_what_cannot_be_quantized_is_an_error() {
    let mut out = Vec::new();
    let error = quantize_rows(BlockFormat::Q6K, &[0.0; 256], 256, &mut out);
    assert_eq!(error, Err(KernelError::CannotQuantize { format: BlockFormat::Q6K }));
    assert!(!can_quantize(BlockFormat::Q6K) && can_quantize(BlockFormat::Q4_0));
    let partial = KernelError::PartialBlock { format: BlockFormat::Q8_0, cols: 33, block: 32 };
    assert_eq!(quantize_rows(BlockFormat::Q8_0, &[0.0; 33], 33, &mut out), Err(partial));
    assert!(quantize_rows(BlockFormat::F32, &[0.0; 5], 2, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn matrices_whose_buffers_do_not_fit_are_refused() {
    let bytes = [0u8; 64];
    let scales = [0.0f32; 8];
    let group = |order, group_size| GroupMatrix {
        quants: GroupQuants::Bytes(&bytes),
        scales: &scales,
        zeros: GroupZeros::Zero,
        group_size,
        input_order: order,
    };
    let book = |absmax, block| CodebookMatrix {
        nibbles: &bytes[..32],
        codebook: &[0.0; 16],
        absmax,
        block,
    };
    let check = |data| Matrix { rows: 8, cols: 8, data }.validate();
    let block = |format, bytes| MatrixData::Block { format, bytes, scales: None };
    assert_eq!(check(MatrixData::Group(group(Some(&[0, 1, 2, 3, 4, 5, 7, 6]), 8))), Ok(()));
    assert_eq!(
        check(MatrixData::Group(group(Some(&[0, 1, 2, 3, 4, 5, 5, 6]), 8))),
        Err(KernelError::NotPermutation { index: 6, value: 5 })
    );
    assert!(check(MatrixData::Group(group(Some(&[0, 1]), 8))).is_err());
    assert!(check(MatrixData::Group(group(None, 4))).is_err());
    assert!(check(MatrixData::Group(group(None, 0))).is_err());
    assert!(check(block(BlockFormat::Q8_0, &bytes)).is_err());
    assert!(check(block(BlockFormat::F32, &bytes)).is_err());
    assert_eq!(check(MatrixData::Codebook(book(Absmax::Single(&scales), 8))), Ok(()));
    assert!(check(MatrixData::Codebook(book(Absmax::Single(&scales), 7))).is_err());
    let (quants, code) = (&bytes[..8], &[0.0; 255]);
    let nested = Absmax::Nested { quants, code, absmax: &scales[..1], block: 8, offset: 0.0 };
    assert!(check(MatrixData::Codebook(book(nested, 8))).is_err());
    let fp8 = |block| MatrixData::Fp8(Fp8Matrix { bytes: &bytes, scales: &scales, block });
    assert_eq!(check(fp8([1, 8])), Ok(()));
    assert!(check(fp8([0, 8])).is_err() && check(fp8([1, 4])).is_err());
    let huge = Matrix { rows: usize::MAX, cols: 32, data: block(BlockFormat::F32, &bytes) };
    assert_eq!(huge.validate(), Err(KernelError::TooLarge { rows: usize::MAX, cols: 32 }));
}
