//! Pictures of a fit: parabolas, best sizes, tokens and losses over budgets, contours of loss.

mod contours;
mod frontier;
mod isoflop;

use std::ops::Range;
use std::path::{Path, PathBuf};

use puna_plot::{Drawing, Picture, paint};

use self::contours::Contours;
use self::frontier::{Frontier, Quantity};
use self::isoflop::Parabolas;
use crate::ensemble::Ensemble;
use crate::error::LawError;
use crate::isoflop::{Group, IsoFlop};
use crate::law::ParametricLaw;
use crate::points::Point;

/// What the pictures of a fit show.
#[derive(Debug, Clone, Copy)]
pub struct Study<'a> {
    /// Name of the data.
    pub title: &'a str,
    /// What N is.
    pub counted: &'a str,
    /// The points that were fitted.
    pub points: &'a [Point],
    /// The parametric law.
    pub law: &'a ParametricLaw,
    /// Its bootstrap, for bands.
    pub ensemble: Option<&'a Ensemble>,
    /// Runs by budget, and the parabolas through them.
    pub isoflop: Option<(&'a [Group], &'a IsoFlop)>,
}

/// Draws all pictures into a folder, each as SVG and PNG, and says which files they are. Without
/// parabolas there is no picture of them.
///
/// # Errors
/// [`LawError::Write`] if the folder cannot be made, [`LawError::Plot`] if a picture cannot be drawn.
pub fn draw_figures(study: &Study<'_>, folder: &Path) -> Result<Vec<PathBuf>, LawError> {
    std::fs::create_dir_all(folder)
        .map_err(|source| LawError::Write { path: folder.to_path_buf(), source })?;
    let mut written = Vec::new();
    if let Some((groups, fit)) = study.isoflop {
        both(&Parabolas { study, groups, fit }, "isoflop", folder, &mut written)?;
    }
    for quantity in [Quantity::Params, Quantity::Tokens, Quantity::Loss] {
        both(&Frontier { study, quantity }, quantity.file_name(), folder, &mut written)?;
    }
    both(&Contours { study }, "contours", folder, &mut written)?;
    Ok(written)
}

fn both(
    drawing: &impl Drawing,
    name: &str,
    folder: &Path,
    written: &mut Vec<PathBuf>,
) -> Result<(), LawError> {
    for picture in [Picture::Svg, Picture::Png] {
        let path = folder.join(format!("{name}.{}", picture.extension()));
        paint(drawing, picture, &path)?;
        written.push(path);
    }
    Ok(())
}

/// A count on an axis: 100 M, 2 B.
fn size(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")];
    // Marks are round: 0.9999 of a unit is a unit.
    let unit = UNITS.iter().find(|(unit, _)| value * 1.000_001 >= *unit);
    let (unit, name) = unit.copied().unwrap_or((1.0, ""));
    let digits = format!("{:.2}", value / unit);
    format!("{}{name}", digits.trim_end_matches('0').trim_end_matches('.'))
}

/// The ends of some positive values, with so much room in ln to both sides.
fn log_range(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (least, greatest) = ends(values);
    least * (-room).exp()..greatest * room.exp()
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, greatest), value| {
        (least.min(value), greatest.max(value))
    })
}

/// Values from one to another, evenly spaced in logarithms.
fn log_steps(range: &Range<f64>, count: usize) -> Vec<f64> {
    let (first, last) = (range.start.ln(), range.end.ln());
    let step = (last - first) / (count - 1) as f64;
    (0..count).map(|index| (first + step * index as f64).exp()).collect()
}

/// Decimals that tell losses apart over a range.
fn loss_decimals(spread: f64) -> usize {
    if spread < 0.02 {
        4
    } else if spread < 0.2 {
        3
    } else {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_short() {
        assert_eq!(size(1e8), "100 M");
        assert_eq!(size(2e9), "2 B");
        assert_eq!(size(10f64.powi(12)), "1 T");
        assert_eq!(size(1.5e3), "1.5 k");
        assert_eq!(size(30.0), "30");
    }

    #[test]
    fn steps_are_even_in_logarithms() {
        let steps = log_steps(&(1.0..100.0), 3);
        assert!((steps[1] - 10.0).abs() < 1e-9 && (steps[2] - 100.0).abs() < 1e-9);
    }
}
