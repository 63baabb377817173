//! A fit as a person reads it.

use std::path::Path;

use puna_laws::{Interval, LawName, Level, LossFrontier, RobustLoss};

use super::Results;
use super::predict::{Approach, Prediction, Question};
use super::results::{CONSTANTS, six_digits};
use crate::output;

/// The whole report.
pub(super) fn text(results: &Results, predictions: &[Prediction], folder: Option<&Path>) -> String {
    let mut parts = vec![points(results)];
    parts.extend(law(results));
    parts.push(approaches(results));
    parts.extend(windows(results));
    if !predictions.is_empty() {
        parts.push(predicted(predictions));
    }
    if let Some(folder) = folder {
        parts.push(format!("figures, fit.json and resamples: {}\n", folder.display()));
    }
    parts.join("\n")
}

fn points(results: &Results) -> String {
    let (used, all) = (results.points.len(), results.file.points.len());
    let dropped = match results.dropped {
        0 => String::new(),
        count if puna_laws::is_besiroglu2024(&results.file.points) => format!(
            "; the {count} highest losses are left out, as Besiroglu et al. did with these points \
             (--drop-highest 0 keeps them)"
        ),
        count => format!("; the {count} highest losses are left out"),
    };
    format!("{}: {used} of {all} points{dropped}\nN: {}\n", results.name, results.file.counted)
}

fn law(results: &Results) -> Option<String> {
    let parametric = results.parametric.as_ref()?;
    let fit = &parametric.fit;
    let loss = match results.options.loss {
        RobustLoss::Huber { delta } => format!("Huber, delta {delta}"),
        RobustLoss::L1 => "least absolute deviations".to_owned(),
    };
    let mut text = format!(
        "L = {} + {} / N^{} + {} / D^{}\nobjective {:.6e} ({loss}); {} of {} starts agree; \
         residuals of ln loss {:.4} (rms)\n\n",
        six_digits(fit.law.e),
        six_digits(fit.law.a),
        six_digits(fit.law.alpha),
        six_digits(fit.law.b),
        six_digits(fit.law.beta),
        fit.objective,
        fit.agreeing_starts,
        fit.starts,
        fit.rms_residual,
    );
    let mut rows = Vec::new();
    if let Some(ensemble) = &parametric.ensemble {
        rows.push(row(["", "value", "80 % interval", "95 % interval"]));
        for (name, of) in CONSTANTS {
            let [inner, outer] = [Level::Percent80, Level::Percent95]
                .map(|level| between(ensemble.interval(level, of), six_digits));
            rows.push(vec![name.to_owned(), six_digits(of(&fit.law)), inner, outer]);
        }
        text.push_str(&output::table(&rows));
        text.push_str(&format!("{} resamples of the points\n", ensemble.laws().len()));
    }
    Some(text)
}

/// The approaches side by side, at the largest budget.
fn approaches(results: &Results) -> String {
    let flops = results.points.iter().map(|point| point.flops()).fold(0.0_f64, f64::max);
    let mut rows = vec![row(["", "a of N ~ C^a", "80 %", "best N", "80 %", "best D", "D/N"])];
    let mut push = |name: &str, exponent: f64, ends: [Option<Interval>; 2], (n, d): (f64, f64)| {
        let [of_exponent, of_size] = ends;
        let shown = |interval: Option<Interval>, write: fn(f64) -> String| {
            interval.map_or_else(|| "-".to_owned(), |interval| between(interval, write))
        };
        rows.push(vec![
            name.to_owned(),
            format!("{exponent:.4}"),
            shown(of_exponent, |value| format!("{value:.3}")),
            size(n),
            shown(of_size, size),
            size(d),
            format!("{:.1}", d / n),
        ]);
    };
    let frontiers = [
        ("1 envelope", results.envelope.as_ref().map(|(found, all)| (&found.law, all))),
        ("2 parabolas", results.parabolas.as_ref().map(|(_, found, all)| (&found.law, all))),
    ];
    for (name, found) in frontiers {
        if let Some((law, ensemble)) = found {
            let of_exponent = ensemble
                .as_ref()
                .map(|all| all.interval(Level::Percent80, |law| law.params.exponent));
            let of_size = ensemble
                .as_ref()
                .map(|all| all.interval(Level::Percent80, |law| law.params_for_flops(flops)));
            let best = (law.params_for_flops(flops), law.tokens_for_flops(flops));
            push(name, law.params.exponent, [of_exponent, of_size], best);
        }
    }
    if let Some(parametric) = &results.parametric {
        let law = &parametric.fit.law;
        let best = law.for_flops(flops);
        let all = parametric.ensemble.as_ref();
        let of_exponent = all.map(|all| all.interval(Level::Percent80, |law| law.exponent()));
        let of_size = all.map(|all| all.params_for_flops(flops, Level::Percent80));
        push("3 law", law.exponent(), [of_exponent, of_size], (best.params, best.tokens));
    }
    let published = LawName::default().parametric();
    let best = published.for_flops(flops);
    let name = LawName::default().name();
    push(name, published.exponent(), [None, None], (best.params, best.tokens));
    let mut text = format!("The approaches at the largest budget, {flops:.3e} FLOP\n");
    text.push_str(&output::table(&rows));
    for (approach, why) in &results.missing {
        text.push_str(&format!("{approach}: not possible, {why}\n"));
    }
    text
}

/// What the choice of a window does to the parabolas.
fn windows(results: &Results) -> Option<String> {
    let (_, found, _) = results.parabolas.as_ref()?;
    let exponents: Vec<String> = found
        .windows
        .iter()
        .map(|(window, law)| {
            let window = if window.is_finite() { format!("{window:.1}") } else { "all".to_owned() };
            format!("{window}: {:.3}", law.params.exponent)
        })
        .collect();
    let mut text = format!(
        "Parabolas reach {:.1} around the lowest loss, in ln N; a by reach: {}\n",
        puna_laws::WINDOW,
        exponents.join(", ")
    );
    if let Some(LossFrontier { floor, above }) = found.loss {
        text.push_str(&format!(
            "lowest loss of a budget, through their vertices: L = {} + {} / C^{}\n",
            six_digits(floor),
            six_digits(above.coefficient),
            six_digits(-above.exponent)
        ));
    }
    if !found.left_out.is_empty() {
        let budgets: Vec<String> =
            found.left_out.iter().map(|budget| format!("{budget:.2e}")).collect();
        text.push_str(&format!(
            "left out, for want of runs on both sides of the lowest loss: {}\n",
            budgets.join(", ")
        ));
    }
    Some(text)
}

fn predicted(predictions: &[Prediction]) -> String {
    let mut rows = vec![row(["predicted", "N", "80 %", "D", "D/N", "80 %", "loss", "80 %"])];
    let or_dash = |interval: Option<Interval>, write: fn(f64) -> String| {
        interval.map_or_else(|| "-".to_owned(), |interval| between(interval, write))
    };
    for prediction in predictions {
        let allocation = &prediction.allocation;
        rows.push(vec![
            match prediction.question {
                Question::Flops(flops) => format!(
                    "best for {flops:.3e} FLOP, {}",
                    match prediction.approach {
                        Approach::Law => "law",
                        Approach::Parabolas => "parabolas",
                    }
                ),
                Question::Run(..) => format!("run of {:.3e} FLOP", allocation.flops),
            },
            size(allocation.params),
            or_dash(prediction.params, size),
            size(allocation.tokens),
            format!("{:.1}", allocation.ratio()),
            or_dash(prediction.ratio, |value| format!("{value:.1}")),
            format!("{:.4}", allocation.loss),
            or_dash(prediction.loss, |value| format!("{value:.4}")),
        ]);
    }
    let note = "Losses are of the laws, on the data and with the tokenizer of these runs; a single \
                run scatters around them.\n";
    output::table(&rows) + note
}

fn row<const COUNT: usize>(cells: [&str; COUNT]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn between(interval: Interval, write: fn(f64) -> String) -> String {
    format!("{} .. {}", write(interval.low), write(interval.high))
}

/// A count with three digits and its unit.
fn size(value: f64) -> String {
    const UNITS: [(f64, &str); 4] = [(1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")];
    let unit = UNITS.iter().find(|(unit, _)| value >= 0.9995 * unit);
    let (unit, name) = unit.copied().unwrap_or((1.0, ""));
    let value = value / unit;
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$}{name}")
}
