//! Methods as dots: what they cost against what they reach.

use std::path::Path;

use puna_plot::plotters::coord::Shift;
use puna_plot::plotters::prelude::*;
use puna_plot::style::{INK, PALE, QUIET_INK, STRONG};
use puna_plot::{Drawing, Drawn, Frame, Picture, Scale, draw_axes, font, frame, paint, short};

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
    Ok(paint(&Scatter { dots, title, subtitle }, picture, path)?)
}

/// The range of some values, with a part of it to both sides.
fn range(values: impl Iterator<Item = f64>, room: f64) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    let room = ((high - low) * room).max(1e-3 * high.abs()).max(1e-6);
    low - room..high + room
}

/// Dots so near each other that their names share a line, by their places along the axes from 0 to 1.
fn neighbors(places: &[(f64, f64)]) -> Vec<Vec<usize>> {
    let near =
        |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < NEAR.0 && (a.1 - b.1).abs() < NEAR.1;
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (dot, &place) in places.iter().enumerate() {
        match groups.iter_mut().find(|group| near(places[group[0]], place)) {
            Some(group) => group.push(dot),
            None => groups.push(vec![dot]),
        }
    }
    groups
}

/// Shares of the axes within which names would lie on each other: a few letters, a line.
const NEAR: (f64, f64) = (0.03, 0.025);

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
    let x = range(dots.iter().map(|dot| dot.parameters.log10()), 0.12);
    let y = range(dots.iter().map(|dot| dot.loss), 0.1);
    let place = |dot: &&Dot| {
        let along = |value: f64, axis: &std::ops::Range<f64>| {
            (value - axis.start) / (axis.end - axis.start)
        };
        (along(dot.parameters.log10(), &x), along(dot.loss, &y))
    };
    let groups = neighbors(&dots.iter().map(place).collect::<Vec<_>>());
    let decimals = if y.end - y.start < 0.2 { 3 } else { 2 };
    let x = 10f64.powf(x.start)..10f64.powf(x.end);
    let around = Frame {
        title,
        subtitle,
        x: Scale::logarithmic("trained parameters", x, short),
        y: Scale::even("validation loss (nats per token)", y, 8, move |loss| {
            format!("{loss:.decimals$}")
        }),
        right: 28,
    };
    let mut chart = frame(area, &around, picture)?;
    draw_axes(&mut chart, &around, picture)?;
    let mut front: Vec<(f64, f64)> =
        dots.iter().filter(|dot| dot.best).map(|dot| (dot.parameters, dot.loss)).collect();
    front.sort_by(|a, b| a.0.total_cmp(&b.0));
    chart.draw_series(LineSeries::new(front, PALE.stroke_width(scale)))?;
    let radius = 5 * scale as i32;
    for dot in dots {
        let color = if dot.best { STRONG } else { QUIET_INK };
        chart.draw_series(std::iter::once(
            EmptyElement::at((dot.parameters, dot.loss))
                + Circle::new((0, 0), radius, color.filled()),
        ))?;
    }
    for group in groups {
        let best = group.iter().any(|&dot| dots[dot].best);
        let label = font(12, if best { &INK } else { &QUIET_INK }, picture);
        let names: Vec<&str> = group.iter().map(|&dot| dots[dot].name.as_str()).collect();
        // Behind the last of them.
        let right = group.iter().map(|&dot| dots[dot].parameters).fold(0.0, f64::max);
        let shift = ((radius + 4), -(7 * scale as i32));
        chart.draw_series(std::iter::once(
            EmptyElement::at((right, dots[group[0]].loss))
                + Text::new(names.join(", "), shift, label),
        ))?;
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_dots_on_each_other_share_a_line() {
        let places = [(0.5, 0.5), (0.1, 0.5), (0.51, 0.51), (0.5, 0.6), (0.505, 0.5)];
        assert_eq!(neighbors(&places), [vec![0, 2, 4], vec![1], vec![3]]);
    }
}
