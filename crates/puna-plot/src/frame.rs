//! Title, subtitle, and the axes under them.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::picture::{Drawn, Picture, font};
use crate::scale::Scale;
use crate::style::{AXIS, GRID, INK, QUIET_INK};

/// What stands around the data.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// First line.
    pub title: &'a str,
    /// Second line.
    pub subtitle: &'a str,
    /// Lower axis.
    pub x: Scale,
    /// Left axis.
    pub y: Scale,
    /// Room on the right, in points; 28 is an edge.
    pub right: u32,
}

/// A chart on two axes.
pub type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Scale, Scale>>;

/// Draws the ground and the titles, and makes the chart under them.
///
/// # Errors
/// What the backend says.
pub fn frame<'a, DB: DrawingBackend>(
    area: &'a DrawingArea<DB, Shift>,
    frame: &Frame<'_>,
    picture: Picture,
) -> Result<Chart<'a, DB>, DrawingAreaErrorKind<DB::ErrorType>> {
    let scale = picture.scale();
    let at = |x: u32, y: u32| ((x * scale) as i32, (y * scale) as i32);
    area.fill(&WHITE)?;
    area.draw_text(frame.title, &font(20, &INK, picture), at(24, 18))?;
    area.draw_text(frame.subtitle, &font(13, &QUIET_INK, picture), at(24, 44))?;
    ChartBuilder::on(area)
        .margin_top(72 * scale)
        .margin_right(frame.right * scale)
        .margin_bottom(14 * scale)
        .margin_left(14 * scale)
        .x_label_area_size(46 * scale)
        .y_label_area_size(62 * scale)
        .build_cartesian_2d(frame.x.clone(), frame.y.clone())
}

/// Draws grid, marks and labels.
///
/// # Errors
/// What the backend says.
pub fn draw_axes<DB: DrawingBackend>(
    chart: &mut Chart<'_, DB>,
    frame: &Frame<'_>,
    picture: Picture,
) -> Drawn<DB> {
    let scale = picture.scale();
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(scale))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(scale))
        .label_style(font(13, &INK, picture))
        .axis_desc_style(font(14, &INK, picture))
        .set_all_tick_mark_size(4 * scale)
        .x_desc(frame.x.label())
        .y_desc(frame.y.label())
        .draw()
}
