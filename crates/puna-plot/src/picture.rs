//! A picture as a file.

use std::path::Path;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, TextStyle, register_font};
use puna_io::AtomicFile;

use crate::error::PlotError;
use crate::png;

/// Kind of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// Lines, at any size.
    Svg,
    /// Dots, 1920 × 1080.
    Png,
}

/// Size in points.
pub const SIZE: (u32, u32) = (960, 540);

impl Picture {
    /// Pixels to a point.
    pub fn scale(self) -> u32 {
        match self {
            Self::Svg => 1,
            Self::Png => 2,
        }
    }

    /// End of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Png => "png",
        }
    }
}

/// Name of the letters.
pub const FONT: &str = "sans-serif";
static FONT_BYTES: &[u8] = include_bytes!("../assets/roboto-latin.ttf");

/// Letters of a size in points.
pub fn font<'a>(points: u32, color: &'a RGBColor, picture: Picture) -> TextStyle<'a> {
    (FONT, points * picture.scale()).into_font().color(color)
}

/// What drawing gives.
pub type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

/// Something drawn, the same for both kinds of pictures.
pub trait Drawing {
    /// Draws all of it, the empty ground included.
    ///
    /// # Errors
    /// What the backend says.
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB>;
}

/// Draws into a file, which is whole or not there.
///
/// # Errors
/// [`PlotError`] if it cannot be drawn or written.
pub fn paint(drawing: &impl Drawing, picture: Picture, path: &Path) -> Result<(), PlotError> {
    let failed = |reason: String| PlotError::Draw { path: path.to_path_buf(), reason };
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if !REGISTERED.get_or_init(|| register_font(FONT, FontStyle::Normal, FONT_BYTES).is_ok()) {
        return Err(failed("the font inside the program is damaged".into()));
    }
    match picture {
        Picture::Svg => {
            let mut text = String::new();
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            drawing.draw(&area, picture).map_err(|error| failed(error.to_string()))?;
            drop(area);
            // Whole or not at all: there may be an earlier picture.
            let mut file = AtomicFile::create(path)?;
            file.append(text.as_bytes())?;
            Ok(file.commit()?)
        }
        Picture::Png => {
            let size = (SIZE.0 * picture.scale(), SIZE.1 * picture.scale());
            let mut pixels = vec![0; (size.0 * size.1 * 3) as usize];
            let area = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
            drawing.draw(&area, picture).map_err(|error| failed(error.to_string()))?;
            drop(area);
            png::write(path, &pixels, size)
        }
    }
}
