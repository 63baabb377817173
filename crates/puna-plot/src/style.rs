//! Colors. None carries a meaning alone: lines have names, dots have places.

use plotters::style::RGBColor;

/// Titles and labels.
pub const INK: RGBColor = RGBColor(33, 37, 41);
/// Subtitles and what stands back.
pub const QUIET_INK: RGBColor = RGBColor(95, 103, 112);
/// Lines behind the data.
pub const GRID: RGBColor = RGBColor(232, 235, 238);
/// The axes' lines.
pub const AXIS: RGBColor = RGBColor(160, 167, 175);
/// The light one of a pair.
pub const PALE: RGBColor = RGBColor(120, 172, 230);
/// What a picture is about.
pub const STRONG: RGBColor = RGBColor(21, 96, 189);
/// What is set against it.
pub const CONTRAST: RGBColor = RGBColor(217, 95, 14);

/// From dark violet to yellow-green, evenly in lightness (points of Matplotlib's viridis).
const ORDERED: [(u8, u8, u8); 6] =
    [(68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (190, 216, 40)];

/// A color for a place between 0 (dark) and 1 (light) of an order.
pub fn ordered(place: f64) -> RGBColor {
    let place = place.clamp(0.0, 1.0) * (ORDERED.len() - 1) as f64;
    let below = (place as usize).min(ORDERED.len() - 2);
    let part = place - below as f64;
    let (from, to) = (ORDERED[below], ORDERED[below + 1]);
    let mix = |x: u8, y: u8| (f64::from(x) + part * (f64::from(y) - f64::from(x))).round() as u8;
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}
