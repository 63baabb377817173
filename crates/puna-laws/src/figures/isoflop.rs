//! Loss over size, a parabola for each budget.

use std::ops::Range;

use puna_plot::plotters::coord::Shift;
use puna_plot::plotters::prelude::*;
use puna_plot::style::{INK, QUIET_INK, ordered};
use puna_plot::{
    Drawing, Drawn, Entry, Frame, KEY_WIDTH, Picture, Scale, Symbol, draw_axes, draw_key, frame,
    power_of_ten,
};

use super::{Study, ends, log_range, log_steps, loss_decimals, size};
use crate::isoflop::{Group, IsoFlop, Parabola};
use crate::points::Point;

/// Budgets that a key has room for.
const MOST_IN_KEY: usize = 17;

pub(super) struct Parabolas<'a> {
    pub(super) study: &'a Study<'a>,
    pub(super) groups: &'a [Group],
    pub(super) fit: &'a IsoFlop,
}

impl Parabolas<'_> {
    /// The runs of a parabola: those it goes through, and the others of its budget.
    fn runs<'a>(&'a self, parabola: &Parabola) -> impl Iterator<Item = &'a Point> + use<'a> {
        let budget = parabola.budget;
        let own = self.groups.iter().filter(move |group| group.budget == budget);
        own.flat_map(|group| &group.points)
    }

    /// The runs of the budgets that have no parabola: their lowest loss is at an end.
    fn alone(&self) -> impl Iterator<Item = &Point> {
        let left_out = |group: &&Group| self.fit.left_out.contains(&group.budget);
        self.groups.iter().filter(left_out).flat_map(|group| &group.points)
    }

    /// Colors go by budget.
    fn color(&self, budget: f64) -> RGBColor {
        let smaller = self.groups.iter().filter(|group| group.budget < budget).count();
        ordered(smaller as f64 / (self.groups.len() - 1).max(1) as f64)
    }

    fn ranges(&self) -> (Range<f64>, Range<f64>) {
        let parabolas = &self.fit.parabolas;
        let alone = self.alone().map(|point| point.params);
        let fitted_sizes =
            parabolas.iter().flat_map(|parabola| [parabola.range.0, parabola.range.1]);
        let sizes = fitted_sizes.chain(alone);
        let fitted = |parabola: &Parabola| {
            let (least, greatest) = parabola.range;
            let inside = self.runs(parabola).filter(move |point| {
                point.params >= 0.999 * least && point.params <= 1.001 * greatest
            });
            inside.map(|point| point.loss).chain([parabola.loss]).collect::<Vec<_>>()
        };
        let (least, greatest) = ends(parabolas.iter().flat_map(fitted));
        let room = 0.05 * (greatest - least);
        (log_range(sizes, 0.15), least - room..greatest + room)
    }

    fn key(&self) -> Vec<Entry> {
        let entry = |symbol, label: String| Entry { symbol, label };
        let mut key = vec![entry(Symbol::Nothing, "budget, FLOP".into())];
        let every = self.groups.len().div_ceil(MOST_IN_KEY);
        for (index, group) in self.groups.iter().enumerate().rev() {
            if index % every == 0 {
                let color = self.color(group.budget);
                let symbol = match self.fit.left_out.contains(&group.budget) {
                    true => Symbol::Ring(color),
                    false => Symbol::DotOnLine(color),
                };
                key.push(entry(symbol, power_of_ten(group.budget)));
            }
        }
        key.push(entry(Symbol::Ring(INK), "best size".into()));
        if self.alone().next().is_some() {
            key.push(entry(Symbol::Nothing, "rings of a budget's".into()));
            key.push(entry(Symbol::Nothing, "color: no parabola,".into()));
            key.push(entry(Symbol::Nothing, "best at an end".into()));
        }
        key
    }
}

impl Drawing for Parabolas<'_> {
    fn draw<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        picture: Picture,
    ) -> Drawn<DB> {
        let scale = picture.scale();
        let (x, y) = self.ranges();
        let decimals = loss_decimals(y.end - y.start);
        let law = &self.fit.law;
        let subtitle = format!(
            "runs of equal budget and the parabolas through them; best size ~ C^{:.3}, tokens ~ C^{:.3}",
            law.params.exponent, law.tokens.exponent
        );
        let around = Frame {
            title: &format!("{}: loss over size, by budget", self.study.title),
            subtitle: &subtitle,
            x: Scale::logarithmic("parameters N", x, size),
            y: Scale::even("loss (nats per token)", y, 8, move |loss| format!("{loss:.decimals$}")),
            right: KEY_WIDTH,
        };
        let mut chart = frame(area, &around, picture)?;
        draw_axes(&mut chart, &around, picture)?;
        let shown = |x: f64, y: f64| around.x.holds(x) && around.y.holds(y);
        for group in self.groups.iter().filter(|group| self.fit.left_out.contains(&group.budget)) {
            let ring = self.color(group.budget).stroke_width(scale);
            let rings = group.points.iter().filter(|point| shown(point.params, point.loss));
            chart.draw_series(
                rings.map(|point| Circle::new((point.params, point.loss), 3 * scale as i32, ring)),
            )?;
        }
        for parabola in &self.fit.parabolas {
            let color = self.color(parabola.budget);
            let dots = self.runs(parabola).filter(|point| shown(point.params, point.loss));
            chart.draw_series(dots.map(|point| {
                Circle::new((point.params, point.loss), 3 * scale as i32, color.filled())
            }))?;
            let line = log_steps(&(parabola.range.0..parabola.range.1), 80);
            let line = line.into_iter().map(|params| (params, parabola.at(params)));
            let line = line.filter(|(x, y)| shown(*x, *y));
            chart.draw_series(LineSeries::new(line, color.stroke_width(2 * scale)))?;
        }
        let vertices: Vec<(f64, f64)> =
            self.fit.parabolas.iter().map(|parabola| (parabola.params, parabola.loss)).collect();
        let joined = vertices.iter().copied();
        chart.draw_series(LineSeries::new(joined, QUIET_INK.mix(0.5).stroke_width(scale)))?;
        let ring = INK.stroke_width(2 * scale);
        chart.draw_series(vertices.iter().map(|at| Circle::new(*at, 5 * scale as i32, ring)))?;
        draw_key(area, &self.key(), picture)?;
        area.present()
    }
}
