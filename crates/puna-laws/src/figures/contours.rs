//! Contours of the law's loss over budget and size, with the runs and the best sizes.

use std::ops::Range;

use puna_plot::plotters::coord::Shift;
use puna_plot::plotters::prelude::*;
use puna_plot::plotters::style::text_anchor::{HPos, Pos, VPos};
use puna_plot::style::{CONTRAST, INK, QUIET_INK, ordered};
use puna_plot::{
    Chart, Drawing, Drawn, Entry, Frame, KEY_WIDTH, Picture, Scale, Symbol, draw_axes, draw_key,
    font, frame, power_of_ten,
};

use super::{Study, ends, log_range, log_steps, loss_decimals, size};
use crate::law::TRAIN_FLOPS;

/// Contours drawn.
const LEVELS: usize = 12;
/// Beyond the largest budget, so many times it is shown.
const AHEAD: f64 = 10.0;

pub(super) struct Contours<'a> {
    pub(super) study: &'a Study<'a>,
}

/// A contour's loss, color, and its pieces within the axes.
struct Contour {
    loss: f64,
    color: RGBColor,
    pieces: Vec<Vec<(f64, f64)>>,
}

impl Contours<'_> {
    fn ranges(&self) -> (Range<f64>, Range<f64>) {
        let points = self.study.points;
        let (least, largest) = ends(points.iter().map(|point| point.flops()));
        let best = self.study.law.for_flops(largest * AHEAD).params;
        let sizes = points.iter().map(|point| point.params).chain([best]);
        (log_range([least, largest * AHEAD].into_iter(), 0.2), log_range(sizes, 0.3))
    }

    /// Levels that are even in the logarithm of what the law can still reduce.
    fn contours(&self, x: &Scale, y: &Scale) -> Vec<Contour> {
        let law = self.study.law;
        let budgets = x.ends();
        let [high, low] =
            [budgets.start, budgets.end].map(|flops| law.for_flops(flops).loss - law.e);
        let high = high * 1.25;
        log_steps(&(low..high), LEVELS)
            .into_iter()
            .enumerate()
            .map(|(index, above)| {
                let loss = law.e + above;
                let flops = |params: f64| {
                    let tokens = law.tokens_for_loss(params, loss)?;
                    Some(TRAIN_FLOPS * params * tokens).filter(|flops| x.holds(*flops))
                };
                let mut pieces = pieces(flops, &log_steps(&y.ends(), 300));
                pieces.retain(|piece| piece.len() > 1);
                let color = ordered(index as f64 / (LEVELS - 1) as f64);
                Contour { loss, color, pieces }
            })
            .filter(|contour| !contour.pieces.is_empty())
            .collect()
    }

    fn key(&self, contours: &[Contour], decimals: usize) -> Vec<Entry> {
        let entry = |symbol, label: String| Entry { symbol, label };
        let mut key = vec![entry(Symbol::Nothing, "loss, nats per token".into())];
        key.extend(contours.iter().rev().map(|contour| {
            entry(Symbol::Line(contour.color), format!("{:.decimals$}", contour.loss))
        }));
        key.push(entry(Symbol::Dashes(CONTRAST), "best sizes".into()));
        key.push(entry(Symbol::Dot(QUIET_INK), "runs".into()));
        key
    }
}

impl Drawing for Contours<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB> {
        let scale = picture.scale();
        let (x, y) = self.ranges();
        let law = self.study.law;
        let subtitle = format!(
            "L = {:.4} + {:.4} / N^{:.4} + {:.4} / D^{:.4};  N: {}",
            law.e, law.a, law.alpha, law.b, law.beta, self.study.counted
        );
        let around = Frame {
            title: &format!("{}: contours of the fitted loss", self.study.title),
            subtitle: &subtitle,
            x: Scale::logarithmic("training budget C = 6ND (FLOP)", x, power_of_ten),
            y: Scale::logarithmic("parameters N", y, size),
            right: KEY_WIDTH,
        };
        let mut chart = frame(area, &around, picture)?;
        draw_axes(&mut chart, &around, picture)?;
        let contours = self.contours(&around.x, &around.y);
        let (least, greatest) = ends(contours.iter().map(|contour| contour.loss));
        let decimals = loss_decimals((greatest - least) / LEVELS as f64);
        for contour in &contours {
            let style = contour.color.stroke_width(2 * scale);
            for piece in &contour.pieces {
                chart.draw_series(LineSeries::new(piece.iter().copied(), style))?;
            }
        }
        let runs = self.study.points.iter().map(|point| (point.flops(), point.params));
        let dot = QUIET_INK.mix(0.6).filled();
        chart.draw_series(runs.map(|at| Circle::new(at, 3 * scale as i32, dot)))?;
        let frontier: Vec<(f64, f64)> = log_steps(&around.x.ends(), 80)
            .into_iter()
            .map(|flops| (flops, law.for_flops(flops).params))
            .filter(|(_, params)| around.y.holds(*params))
            .collect();
        let dashes = CONTRAST.stroke_width(3 * scale);
        let dashes = frontier.chunks_exact(2).map(|ends| PathElement::new(ends.to_vec(), dashes));
        chart.draw_series(dashes)?;
        label(&mut chart, &contours, (decimals, around.x.ends().start), picture)?;
        draw_key(area, &self.key(&contours, decimals), picture)?;
        area.present()
    }
}

/// The parts of a curve where it is defined, with their ends.
fn pieces(flops: impl Fn(f64) -> Option<f64>, sizes: &[f64]) -> Vec<Vec<(f64, f64)>> {
    // The last place before the curve leaves the axes, between a size inside and one outside.
    let end = |mut inside: f64, mut outside: f64| {
        for _ in 0..40 {
            let middle = (inside * outside).sqrt();
            *(if flops(middle).is_some() { &mut inside } else { &mut outside }) = middle;
        }
        flops(inside).map(|flops| (flops, inside))
    };
    let mut pieces = vec![Vec::new()];
    let mut before: Option<(f64, bool)> = None;
    for &params in sizes {
        let here = flops(params);
        let crossing = match before {
            Some((last, true)) if here.is_none() => end(last, params),
            Some((last, false)) if here.is_some() => end(params, last),
            _ => None,
        };
        if let Some(piece) = pieces.last_mut() {
            piece.extend(crossing);
            piece.extend(here.map(|flops| (flops, params)));
        }
        if here.is_none() {
            pieces.push(Vec::new());
        }
        before = Some((params, here.is_some()));
    }
    pieces
}

/// Writes every other contour's loss where it crosses the best sizes' line: at its least budget.
fn label<'a, DB: DrawingBackend + 'a>(
    chart: &mut Chart<'a, DB>,
    contours: &[Contour],
    (decimals, least): (usize, f64),
    picture: Picture,
) -> Drawn<DB> {
    let style = font(12, &INK, picture).pos(Pos::new(HPos::Right, VPos::Center));
    for contour in contours.iter().step_by(2) {
        let points = contour.pieces.iter().flatten();
        let Some(&(flops, params)) = points.min_by(|p, q| p.0.total_cmp(&q.0)) else {
            continue;
        };
        // A contour that the left axis cuts has its least budget outside.
        if flops < 1.2 * least {
            continue;
        }
        let text = format!("{:.decimals$}", contour.loss);
        let shift = (-6 * picture.scale() as i32, 0);
        let text = EmptyElement::at((flops, params)) + Text::new(text, shift, style.clone());
        chart.draw_series(std::iter::once(text))?;
    }
    Ok(())
}
