//! Best size, best number of tokens or lowest loss over the budget, with the bootstrap's band.

use puna_plot::plotters::coord::Shift;
use puna_plot::plotters::prelude::*;
use puna_plot::style::{AXIS, CONTRAST, INK, PALE, QUIET_INK, STRONG};
use puna_plot::{
    Drawing, Drawn, Entry, Frame, KEY_WIDTH, Picture, Scale, Symbol, draw_axes, draw_key, frame,
    power_of_ten,
};

use super::{Study, ends, log_range, log_steps, loss_decimals, size};
use crate::ensemble::{Interval, Level};
use crate::law::{Allocation, ParametricLaw, TRAIN_FLOPS};

/// Beyond the largest budget, so many times it is shown.
const AHEAD: f64 = 1000.0;
/// Tokens per parameter of the rule of thumb.
const RULE: f64 = 20.0;
/// How strong a band is.
const BAND: f64 = 0.35;

/// What is drawn over the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Params,
    Tokens,
    Loss,
}

impl Quantity {
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Params => "best-params",
            Self::Tokens => "best-tokens",
            Self::Loss => "best-loss",
        }
    }

    fn of(self, allocation: &Allocation) -> f64 {
        match self {
            Self::Params => allocation.params,
            Self::Tokens => allocation.tokens,
            Self::Loss => allocation.loss,
        }
    }

    fn by_rule(self, flops: f64, law: &ParametricLaw) -> f64 {
        let params = (flops / (TRAIN_FLOPS * RULE)).sqrt();
        match self {
            Self::Params => params,
            Self::Tokens => RULE * params,
            Self::Loss => law.loss(params, RULE * params),
        }
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Params => ("best size", "parameters N"),
            Self::Tokens => ("best number of tokens", "tokens D"),
            Self::Loss => ("lowest loss", "loss (nats per token)"),
        }
    }
}

pub(super) struct Frontier<'a> {
    pub(super) study: &'a Study<'a>,
    pub(super) quantity: Quantity,
}

/// What is drawn.
struct Lines {
    law: Vec<(f64, f64)>,
    rule: Vec<(f64, f64)>,
    band: Vec<(f64, Interval)>,
    /// Of losses: the law through the vertices.
    through: Vec<(f64, f64)>,
    vertices: Vec<(f64, f64)>,
    runs: Vec<(f64, f64)>,
    largest: f64,
}

impl Lines {
    /// All heights, for the axis.
    fn heights(&self) -> impl Iterator<Item = f64> {
        let lines = self.law.iter().chain(&self.rule).chain(&self.vertices).chain(&self.runs);
        let lines = lines.chain(&self.through);
        lines.map(|(_, y)| *y).chain(self.band.iter().flat_map(|(_, band)| [band.low, band.high]))
    }
}

impl Frontier<'_> {
    fn lines(&self) -> Lines {
        let (least, largest) = ends(self.study.points.iter().map(|point| point.flops()));
        let budgets = log_steps(&(least..largest * AHEAD), 60);
        let of = |flops: f64| self.quantity.of(&self.study.law.for_flops(flops));
        let band = |flops: f64| {
            let ensemble = self.study.ensemble?;
            let interval = match self.quantity {
                Quantity::Params => ensemble.params_for_flops(flops, Level::Percent80),
                Quantity::Tokens => ensemble.tokens_for_flops(flops, Level::Percent80),
                Quantity::Loss => ensemble.loss_for_flops(flops, Level::Percent80),
            };
            Some((flops, interval))
        };
        let through = match (self.quantity, self.study.isoflop) {
            (Quantity::Loss, Some((_, fit))) => fit.loss,
            _ => None,
        };
        let vertices = self.study.isoflop.iter().flat_map(|(_, fit)| &fit.parabolas);
        Lines {
            law: budgets.iter().map(|&flops| (flops, of(flops))).collect(),
            rule: budgets
                .iter()
                .map(|&flops| (flops, self.quantity.by_rule(flops, self.study.law)))
                .collect(),
            band: budgets.iter().filter_map(|&flops| band(flops)).collect(),
            through: through.map_or_else(Vec::new, |law| {
                budgets.iter().map(|&flops| (flops, law.at(flops))).collect()
            }),
            vertices: vertices
                .map(|parabola| match self.quantity {
                    Quantity::Params => (parabola.budget, parabola.params),
                    Quantity::Tokens => (parabola.budget, parabola.tokens),
                    Quantity::Loss => (parabola.budget, parabola.loss),
                })
                .collect(),
            runs: self
                .study
                .points
                .iter()
                .map(|point| match self.quantity {
                    Quantity::Params => (point.flops(), point.params),
                    Quantity::Tokens => (point.flops(), point.tokens),
                    Quantity::Loss => (point.flops(), point.loss),
                })
                .collect(),
            largest,
        }
    }

    fn key(&self, lines: &Lines) -> Vec<Entry> {
        let entry = |symbol, label: &str| Entry { symbol, label: label.to_owned() };
        let mut key = vec![entry(Symbol::Line(STRONG), "parametric law")];
        if !lines.band.is_empty() {
            key.push(entry(Symbol::Band(PALE, BAND), "80 % of resamples"));
        }
        if !lines.vertices.is_empty() {
            key.push(entry(Symbol::Dot(INK), "parabolas' vertices"));
        }
        if !lines.through.is_empty() {
            key.push(entry(Symbol::Line(INK), "law through them"));
        }
        key.push(entry(Symbol::Dashes(CONTRAST), "20 tokens per param."));
        key.push(entry(Symbol::Dashes(AXIS), "largest budget"));
        key
    }
}

impl Drawing for Frontier<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB> {
        let scale = picture.scale();
        let lines = self.lines();
        let (name, axis) = self.quantity.words();
        let ahead = "right of the upright line the law is extrapolated";
        let exponent = self.study.law.exponent();
        let subtitle = match self.quantity {
            Quantity::Params => format!("~ C^{exponent:.3}; {ahead}"),
            Quantity::Tokens => format!("~ C^{:.3}; {ahead}", 1.0 - exponent),
            Quantity::Loss => ahead.to_owned(),
        };
        let heights = ends(lines.heights());
        let decimals = loss_decimals(heights.1 - heights.0);
        let height = move |value: f64| format!("{value:.decimals$}");
        let y = match self.quantity {
            Quantity::Loss => {
                let room = 0.05 * (heights.1 - heights.0);
                Scale::even(axis, heights.0 - room..heights.1 + room, 8, height)
            }
            _ => Scale::logarithmic(axis, log_range(lines.heights(), 0.3), size),
        };
        let budgets = log_range(lines.law.iter().map(|(flops, _)| *flops), 0.2);
        let around = Frame {
            title: &format!("{}: {name} for a budget", self.study.title),
            subtitle: &subtitle,
            x: Scale::logarithmic("training budget C = 6ND (FLOP)", budgets, power_of_ten),
            y,
            right: KEY_WIDTH,
        };
        let mut chart = frame(area, &around, picture)?;
        draw_axes(&mut chart, &around, picture)?;
        let low = lines.band.iter().map(|(flops, band)| (*flops, band.low));
        let high = lines.band.iter().rev().map(|(flops, band)| (*flops, band.high));
        let outline: Vec<(f64, f64)> = low.chain(high).collect();
        if !outline.is_empty() {
            chart.draw_series([Polygon::new(outline, PALE.mix(BAND).filled())])?;
        }
        let upright = log_steps(&around.y.ends(), 60);
        let upright: Vec<(f64, f64)> = upright.into_iter().map(|y| (lines.largest, y)).collect();
        for (line, color, width) in [(&upright, AXIS, 1), (&lines.rule, CONTRAST, 2)] {
            let style = color.stroke_width(width * scale);
            let dashes = line.chunks_exact(2).map(|ends| PathElement::new(ends.to_vec(), style));
            chart.draw_series(dashes)?;
        }
        let law = lines.law.iter().copied();
        chart.draw_series(LineSeries::new(law, STRONG.stroke_width(2 * scale)))?;
        let through = lines.through.iter().copied();
        chart.draw_series(LineSeries::new(through, INK.stroke_width(scale)))?;
        let dots = lines.vertices.iter();
        chart.draw_series(dots.map(|at| Circle::new(*at, 4 * scale as i32, INK.filled())))?;
        let faint = QUIET_INK.mix(0.35).filled();
        let runs = lines.runs.iter();
        chart.draw_series(runs.map(|at| Circle::new(*at, scale as i32 + 1, faint)))?;
        let mut key = self.key(&lines);
        key.push(Entry { symbol: Symbol::Dot(QUIET_INK), label: "runs (small)".into() });
        draw_key(area, &key, picture)?;
        area.present()
    }
}
