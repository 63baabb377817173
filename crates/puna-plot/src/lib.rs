//! The frame, letters and files of puna's pictures.
//!
//! A [`Drawing`] is described once and painted by `plotters` twice: as SVG, and as PNG with letters
//! from a font inside the binary, so that a machine without fonts draws the same. What a picture
//! shows is the business of the crate that has the numbers; here is what all have in common: title,
//! axes, colors, the key, and files that are whole or not there.

mod error;
mod frame;
mod key;
mod numbers;
mod picture;
mod png;
mod scale;
pub mod style;

pub use error::PlotError;
pub use frame::{Chart, Frame, draw_axes, frame};
pub use key::{Entry, KEY_WIDTH, Symbol, draw_key};
pub use numbers::{grouped, power_of_ten, short};
pub use picture::{Drawing, Drawn, FONT, Picture, SIZE, font, paint};
pub use plotters;
pub use scale::Scale;
