//! Optimizer moments in 8 bits: blocks of 256 values with a scale each, on Dettmers' dynamic map
//! (arXiv:2110.02861, section 2): 7 decades, finer within the upper ones.

use std::sync::OnceLock;

/// Values that share a scale.
pub(crate) const BLOCK: usize = 256;

/// Whether values have signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signs {
    Both,
    Positive,
}

/// The values of the codes, ascending, in -1..1 or 0..1.
pub(crate) fn map(signs: Signs) -> &'static [f32; 256] {
    static MAPS: OnceLock<[[f32; 256]; 2]> = OnceLock::new();
    let maps = MAPS.get_or_init(|| [dynamic_map(Signs::Both), dynamic_map(Signs::Positive)]);
    match signs {
        Signs::Both => &maps[0],
        Signs::Positive => &maps[1],
    }
}

/// The means of even parts of 0.1 to 1 in each decade, twice as many parts in each next one.
fn dynamic_map(signs: Signs) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let parts = match signs {
            Signs::Both => 1 << decade,
            Signs::Positive => 2 << decade,
        };
        let factor = 10f64.powi(decade - 6);
        for part in 0..parts {
            let mean = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            values.push(factor * mean);
            if signs == Signs::Both {
                values.push(-factor * mean);
            }
        }
    }
    values.sort_by(f64::total_cmp);
    let mut map = [0f32; 256];
    map.iter_mut().zip(values).for_each(|(map, value)| *map = value as f32);
    map
}

/// Codes and scale of a block.
pub(crate) fn quantize(values: &[f32], signs: Signs, codes: &mut [u8]) -> f32 {
    let map = map(signs);
    let scale = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (code, value) in codes.iter_mut().zip(values) {
        let value = value * inverse;
        let above = map.partition_point(|&v| v < value).min(255);
        let below = above.saturating_sub(1);
        let nearer = if value - map[below] < map[above] - value { below } else { above };
        *code = nearer as u8;
    }
    scale
}

/// The values of a block.
pub(crate) fn dequantize(codes: &[u8], scale: f32, signs: Signs, values: &mut [f32]) {
    let map = map(signs);
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = map[usize::from(code)] * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maps_have_256_ascending_values_with_zero_and_one() {
        for signs in [Signs::Both, Signs::Positive] {
            let map = map(signs);
            assert!(map.is_sorted() && map[255] == 1.0 && map.contains(&0.0));
            assert!(map.windows(2).all(|pair| pair[0] < pair[1]));
        }
        // The finest decade of the signed map has 64 parts: its last mean is 1 - 0.45 / 64.
        assert!((map(Signs::Both)[254] - 0.992_968_75).abs() < 1e-6);
    }

    #[test]
    fn a_block_comes_back_within_its_steps() {
        let values: Vec<f32> = (0..256).map(|i| (i as f32 - 100.0).powi(3)).collect();
        let mut codes = [0; 256];
        let scale = quantize(&values, Signs::Both, &mut codes);
        let mut back = [0f32; 256];
        dequantize(&codes, scale, Signs::Both, &mut back);
        for (a, b) in values.iter().zip(back) {
            assert!((a - b).abs() <= 0.008 * scale + 0.07 * a.abs(), "{a} {b}");
        }
        assert_eq!(quantize(&[0.0; 4], Signs::Positive, &mut codes), 0.0);
        assert_eq!(map(Signs::Positive)[usize::from(codes[0])], 0.0);
    }
}
