//! What the lines and dots of a picture are, in a column right of the chart, where no data is.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::picture::{Drawn, Picture, SIZE, font};
use crate::style::INK;

/// Room of a key, in points.
pub const KEY_WIDTH: u32 = 200;
/// From line to line.
const LINE: i32 = 21;

/// A line of a key.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What stands for the data.
    pub symbol: Symbol,
    /// Its name.
    pub label: String,
}

/// What stands for data in a key.
#[derive(Debug, Clone, Copy)]
pub enum Symbol {
    /// A line.
    Line(RGBColor),
    /// A line of dashes.
    Dashes(RGBColor),
    /// A line with a dot on it.
    DotOnLine(RGBColor),
    /// A dot.
    Dot(RGBColor),
    /// A ring.
    Ring(RGBColor),
    /// A surface, as it is drawn: a part of the color.
    Band(RGBColor, f64),
    /// Nothing: the label stands alone.
    Nothing,
}

/// Draws a key into the right edge of a picture whose frame leaves [`KEY_WIDTH`] there.
///
/// # Errors
/// What the backend says.
pub fn draw_key<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    entries: &[Entry],
    picture: Picture,
) -> Drawn<DB> {
    let scale = picture.scale() as i32;
    let left = (SIZE.0 - KEY_WIDTH + 18) as i32 * scale;
    for (index, entry) in entries.iter().enumerate() {
        let middle = (84 + LINE * index as i32) * scale;
        let indent = if matches!(entry.symbol, Symbol::Nothing) { 0 } else { 32 * scale };
        draw_symbol(area, entry.symbol, (left, middle), scale)?;
        let place = (left + indent, middle - 4 * scale);
        area.draw_text(&entry.label, &font(13, &INK, picture), place)?;
    }
    Ok(())
}

fn draw_symbol<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    symbol: Symbol,
    (x, y): (i32, i32),
    scale: i32,
) -> Drawn<DB> {
    let length = 24 * scale;
    let line = |color: RGBColor| {
        PathElement::new(vec![(x, y), (x + length, y)], color.stroke_width(2 * scale as u32))
    };
    let dot = |style: ShapeStyle| Circle::new((x + length / 2, y), 4 * scale, style);
    match symbol {
        Symbol::Line(color) => area.draw(&line(color)),
        Symbol::DotOnLine(color) => {
            area.draw(&line(color))?;
            area.draw(&dot(color.filled()))
        }
        Symbol::Dashes(color) => {
            for part in 0..3 {
                let start = x + part * 9 * scale;
                let ends = vec![(start, y), (start + 6 * scale, y)];
                area.draw(&PathElement::new(ends, color.stroke_width(2 * scale as u32)))?;
            }
            Ok(())
        }
        Symbol::Dot(color) => area.draw(&dot(color.filled())),
        Symbol::Ring(color) => area.draw(&dot(color.stroke_width(2 * scale as u32))),
        Symbol::Band(color, part) => {
            let corners = [(x, y - 6 * scale), (x + length, y + 6 * scale)];
            area.draw(&Rectangle::new(corners, color.mix(part).filled()))
        }
        Symbol::Nothing => Ok(()),
    }
}
