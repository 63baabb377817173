//! Numbers of tensor types in GGUF files (`enum ggml_type` of llama.cpp's ggml.h).

use crate::Dtype;

/// Types puna reads and writes.
const SUPPORTED: &[(u32, Dtype)] = &[
    (0, Dtype::F32),
    (1, Dtype::F16),
    (2, Dtype::Q4_0),
    (3, Dtype::Q4_1),
    (6, Dtype::Q5_0),
    (7, Dtype::Q5_1),
    (8, Dtype::Q8_0),
    (10, Dtype::Q2K),
    (11, Dtype::Q3K),
    (12, Dtype::Q4K),
    (13, Dtype::Q5K),
    (14, Dtype::Q6K),
    (20, Dtype::Iq4Nl),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (30, Dtype::BF16),
];

/// Types that exist, or existed, and that puna does not read.
const NAMED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

/// The type of a number, or what to call the type in an error.
pub(super) fn dtype(id: u32) -> Result<Dtype, String> {
    if let Some((_, dtype)) = SUPPORTED.iter().find(|(n, _)| *n == id) {
        return Ok(*dtype);
    }
    Err(match NAMED.iter().find(|(n, _)| *n == id) {
        Some((_, name)) => format!("{name} (ggml type {id})"),
        None => format!("ggml type {id}, which puna does not know"),
    })
}

/// The number of a type; `None` for one that GGUF does not have.
pub(super) fn id(dtype: Dtype) -> Option<u32> {
    SUPPORTED.iter().find(|(_, d)| *d == dtype).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_one_number_each() {
        for &(number, known) in SUPPORTED {
            assert_eq!(dtype(number), Ok(known));
            assert_eq!(id(known), Some(number));
            assert!(NAMED.iter().all(|(n, _)| *n != number));
        }
        assert_eq!(id(Dtype::F8E4M3), None);
    }

    #[test]
    fn unsupported_types_are_called_by_name() {
        assert_eq!(dtype(39), Err("MXFP4 (ggml type 39)".to_owned()));
        assert_eq!(dtype(16), Err("IQ2_XXS (ggml type 16)".to_owned()));
        assert!(dtype(4711).is_err_and(|e| e.contains("4711")));
    }
}
