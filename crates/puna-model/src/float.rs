//! Stored floats as f32.

use half::{bf16, f16};
use puna_io::{Dtype, StoredTensor};

/// The values of a float tensor, or `None` if it holds something else.
pub fn to_f32(tensor: &StoredTensor) -> Option<Vec<f32>> {
    let bytes: &[u8] = &tensor.bytes;
    Some(match tensor.info.dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F64 => {
            bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect()
        }
        Dtype::F16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }
        Dtype::BF16 => {
            bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
        _ => return None,
    })
}

/// The values of an i32 tensor, or `None` if it holds something else.
pub(crate) fn to_i32(tensor: &StoredTensor) -> Option<Vec<i32>> {
    let bytes: &[u8] = &tensor.bytes;
    match tensor.info.dtype {
        Dtype::I32 => {
            Some(bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
        }
        _ => None,
    }
}
