//! Methods as dots: what they cost against what they reach.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::curve::short;
use super::{AXIS, Drawing, Drawn, FONT, GRID, INK, MEAN, Picture, QUIET_INK, STEP, frame, paint};
use crate::log::LogError;

/// A method.
#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    /// Its name.
    pub name: String,
    /// Trained values.
    pub parameters: f64,
    /// Validation loss.
    pub loss: f64,
    /// Whether no other method has both fewer parameters and a lower loss.
    pub best: bool,
}

/// Draws validation losses over numbers of trained values, on a logarithmic axis.
///
/// # Errors
/// [`LogError::NoCurve`] without a finite loss; else if the file cannot be written.
pub fn plot_scatter(
    dots: &[Dot],
    (title, subtitle): (&str, &str),
    picture: Picture,
    path: &Path,
) -> Result<(), LogError> {
    let drawn = |dot: &&Dot| dot.loss.is_finite() && dot.parameters > 0.0;
    let dots: Vec<&Dot> = dots.iter().filter(drawn).collect();
    if dots.is_empty() {
        return Err(LogError::NoCurve);
    }
    paint(&Scatter { dots, title, subtitle }, picture, path)
}

/// The range of some values, with a part of it to both sides.
fn range(values: impl Iterator<Item = f64>, room: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let room = ((high - low) * room).max(1e-3 * high.abs()).max(1e-6);
    low - room..high + room
}

struct Scatter<'a> {
    dots: Vec<&'a Dot>,
    title: &'a str,
    subtitle: &'a str,
}

impl Drawing for Scatter<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB> {
        draw(area, &self.dots, (self.title, self.subtitle), picture)
    }
}

fn draw<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    dots: &[&Dot],
    (title, subtitle): (&str, &str),
    picture: Picture,
) -> Drawn<DB> {
    let scale = picture.scale();
    let font = |points: u32, color: &RGBColor| (FONT, points * scale).into_font().color(color);
    let x = range(dots.iter().map(|dot| dot.parameters.log10()), 0.12);
    let y = range(dots.iter().map(|dot| dot.loss), 0.1);
    let decimals = if y.end - y.start < 0.2 { 3 } else { 2 };
    let mut chart = frame(area, (title, subtitle), (x, y), picture)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.stroke_width(scale))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(scale))
        .label_style(font(13, &INK))
        .axis_desc_style(font(14, &INK))
        .x_labels(8)
        .y_labels(8)
        .set_all_tick_mark_size(4 * scale)
        .x_label_formatter(&|log| short(10f64.powf(*log)))
        .y_label_formatter(&|loss| format!("{loss:.decimals$}"))
        .x_desc("trained parameters")
        .y_desc("validation loss (nats per token)")
        .draw()?;
    let mut front: Vec<(f64, f64)> =
        dots.iter().filter(|dot| dot.best).map(|dot| (dot.parameters.log10(), dot.loss)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    chart.draw_series(LineSeries::new(front, STEP.stroke_width(scale)))?;
    let radius = 5 * scale as i32;
    for dot in dots {
        let color = if dot.best { MEAN } else { QUIET_INK };
        let label = font(12, if dot.best { &INK } else { &QUIET_INK });
        let shift = ((radius + 4), -(7 * scale as i32));
        chart.draw_series(std::iter::once(
            EmptyElement::at((dot.parameters.log10(), dot.loss))
                + Circle::new((0, 0), radius, color.filled())
                + Text::new(dot.name.clone(), shift, label),
        ))?;
    }
    area.present()
}
