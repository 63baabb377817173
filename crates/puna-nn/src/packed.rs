//! Frozen weights that training keeps packed.

use std::sync::Arc;

use puna_kernels::{BlockFormat, Elements, MatRef, PackedMatrix, takes_rounded};

use crate::ops::with_matrix;
use crate::{NnError, Weight};

/// A frozen weight with a copy for the products of training, which else would pack it, twice in every
/// pass, and dequantize it before.
#[derive(Clone, Debug)]
pub struct PackedWeight {
    /// The weight itself.
    of: Arc<Weight>,
    /// Its transpose `[in, out]`, as bfloat16.
    packed: Arc<PackedMatrix>,
}

impl PackedWeight {
    /// Packs a frozen weight of floats and gives its file's memory back; `None` for other weights, whose
    /// copy would take more than they do, and where products take no bfloat16.
    ///
    /// # Errors
    /// If it cannot be dequantized.
    pub fn new(of: &Arc<Weight>) -> Result<Option<Self>, NnError> {
        let Weight::Block(block) = &**of else { return Ok(None) };
        let float =
            matches!(block.format(), BlockFormat::F32 | BlockFormat::F16 | BlockFormat::BF16);
        if !float || !takes_rounded(Elements::Bf16) {
            return Ok(None);
        }
        let shape = (of.cols(), of.rows());
        let pack = |w: MatRef<'_>| PackedMatrix::new(w.t(), shape, Elements::Bf16);
        let packed = Arc::new(with_matrix(of, Elements::Bf16, pack)?);
        block.release();
        Ok(Some(Self { of: Arc::clone(of), packed }))
    }

    /// Bytes that packing a weight takes.
    #[must_use]
    pub fn bytes(of: &Weight) -> usize {
        PackedMatrix::bytes((of.cols(), of.rows()), Elements::Bf16)
    }

    /// The weight without its copy.
    #[must_use]
    pub fn of(&self) -> &Arc<Weight> {
        &self.of
    }

    /// The transpose.
    pub(crate) fn packed(&self) -> &PackedMatrix {
        &self.packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{LowRank, linear_in_training, linear_with_low_rank};
    use crate::{BlockWeight, Parameter, Precision, StoredBytes, Value};
    use puna_testkit::random_tensor;
    use std::ops::Range;
    use std::sync::Mutex;

    /// Bytes that remember what was given back.
    struct Watched(Vec<u8>, Mutex<Vec<Range<usize>>>);

    impl AsRef<[u8]> for Watched {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl StoredBytes for Watched {
        fn release(&self, part: Range<usize>) {
            self.1.lock().unwrap().push(part);
        }
    }

    fn weight(format: BlockFormat, rows: usize, cols: usize) -> (Arc<Watched>, Arc<Weight>) {
        let values: Vec<f32> =
            random_tensor(1, &[rows, cols]).flatten_all().unwrap().to_vec1().unwrap();
        let half = |v: f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
        let bytes = match format {
            BlockFormat::BF16 => values.into_iter().flat_map(half).collect(),
            _ => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        };
        let bytes = Arc::new(Watched(bytes, Mutex::default()));
        let block = BlockWeight::new(format, rows, cols, Arc::<Watched>::clone(&bytes)).unwrap();
        (bytes, Arc::new(Weight::Block(block)))
    }

    #[test]
    fn a_packed_weight_multiplies_to_the_same_bits_both_ways() {
        for (format, rows, cols) in
            [(BlockFormat::BF16, 70, 96), (BlockFormat::F32, 33, 50), (BlockFormat::BF16, 64, 2306)]
        {
            let (bytes, plain) = weight(format, rows, cols);
            let Some(packed) = PackedWeight::new(&plain).unwrap() else {
                println!("skipped: no products of bfloat16");
                return;
            };
            let all = rows * cols * if format == BlockFormat::BF16 { 2 } else { 4 };
            let given = bytes.1.lock().unwrap();
            assert!(given.len() == 1 && given[0] == (0..all), "the file's memory is given back");
            let packed = Arc::new(Weight::Packed(packed));
            assert_eq!((packed.rows(), packed.cols()), (rows, cols));
            let parameter = |seed, shape: [usize; 2]| {
                let values = random_tensor(seed, &shape).flatten_all().unwrap().to_vec1().unwrap();
                Arc::new(Parameter::new("p", &shape, values))
            };
            let (a, b) = (parameter(4, [3, cols]), parameter(5, [rows, 3]));
            let of = LowRank { a, b, scale: 0.5 };
            for precision in [Precision::Fast, Precision::Exact] {
                let results = [&plain, &packed].map(|w| {
                    let x = Value::leaf(random_tensor(2, &[40, cols]));
                    let ys = [
                        linear_in_training(&x, w, precision).unwrap(),
                        linear_with_low_rank(&x, w, &of, precision).unwrap(),
                    ];
                    ys.map(|y| {
                        let out = y.tensor().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                        let gradients = y.backward(random_tensor(3, &[40, rows])).unwrap();
                        let dx = gradients.of(&x).unwrap().flatten_all().unwrap();
                        (out, dx.to_vec1::<f32>().unwrap())
                    })
                });
                assert!(results[0] == results[1], "{format:?} {rows} {cols} {precision:?}");
            }
        }
    }

    #[test]
    fn quantized_and_trained_weights_are_not_packed() {
        let bytes = Arc::new(vec![0u8; 18]);
        let block = BlockWeight::new(BlockFormat::Q4_0, 1, 32, bytes).unwrap();
        let trained = Arc::new(Parameter::new("w", &[1, 2], vec![1.0, 2.0]));
        for weight in [Weight::Block(block), Weight::Trained(trained)] {
            assert!(PackedWeight::new(&Arc::new(weight)).unwrap().is_none());
        }
    }
}
