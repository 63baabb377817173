//! A fit as JSON.

use std::path::PathBuf;

use puna_laws::{
    Ensemble, FrontierEnsemble, FrontierLaw, Interval, Level, ParametricLaw, RobustLoss,
};
use serde_json::{Map, Value, json};

use super::Results;
use super::predict::{Approach, Prediction, Question};

/// A number of a law by its name.
pub(super) type Named = (&'static str, fn(&ParametricLaw) -> f64);

/// What intervals are given of.
pub(super) const CONSTANTS: [Named; 6] = [
    ("A", |law| law.a),
    ("B", |law| law.b),
    ("E", |law| law.e),
    ("alpha", |law| law.alpha),
    ("beta", |law| law.beta),
    ("a", ParametricLaw::exponent),
];

/// Everything that was found.
pub(super) fn json(results: &Results, predictions: &[Prediction], written: &[PathBuf]) -> Value {
    let mut report = Map::new();
    let mut put = |key: &str, value: Value| report.insert(key.to_owned(), value);
    put("points", json!(results.file.points.len()));
    put("points_used", json!(results.points.len()));
    put("dropped_highest", json!(results.dropped));
    put("counted", json!(results.file.counted));
    let (loss, delta) = match results.options.loss {
        RobustLoss::Huber { delta } => ("huber", json!(delta)),
        RobustLoss::L1 => ("l1", Value::Null),
    };
    put("loss", json!(loss));
    put("delta", delta);
    if let Some(parametric) = &results.parametric {
        let fit = &parametric.fit;
        for (name, of) in CONSTANTS {
            put(name, json!(of(&fit.law)));
        }
        put("objective", json!(fit.objective));
        put("starts", json!(fit.starts));
        put("agreeing_starts", json!(fit.agreeing_starts));
        put("rms_residual", json!(fit.rms_residual));
        let ensemble = parametric.ensemble.as_ref();
        put("resamples", json!(ensemble.map_or(0, |all| all.laws().len())));
        put("intervals", ensemble.map_or_else(|| json!({}), intervals));
    }
    put(
        "approach1",
        results.envelope.as_ref().map_or(Value::Null, |(found, ensemble)| {
            let mut value = frontier(&found.law, ensemble.as_ref());
            value["sizes"] = json!(found.sizes);
            value["budgets"] = json!(found.best.len());
            value
        }),
    );
    put(
        "approach2",
        results.parabolas.as_ref().map_or(Value::Null, |(_, found, ensemble)| {
            let mut value = frontier(&found.law, ensemble.as_ref());
            value["window"] = json!(puna_laws::WINDOW);
            value["lowest_loss"] = found.loss.map_or(Value::Null, |law| {
                json!({
                    "floor": law.floor,
                    "coefficient": law.above.coefficient,
                    "exponent": law.above.exponent,
                })
            });
            value["left_out_budgets"] = json!(found.left_out);
            value["windows"] = found.windows.iter().map(window).collect();
            value["parabolas"] = found.parabolas.iter().map(parabola).collect();
            value
        }),
    );
    put(
        "not_possible",
        results
            .missing
            .iter()
            .map(|(approach, why)| json!({ "approach": approach, "reason": why }))
            .collect(),
    );
    put("predictions", predictions.iter().map(prediction).collect());
    put("files", json!(written));
    Value::Object(report)
}

fn intervals(ensemble: &Ensemble) -> Value {
    let of = |(name, of): Named| {
        let [inner, outer] =
            [Level::Percent80, Level::Percent95].map(|level| ensemble.interval(level, of));
        let value = json!({
            "p2.5": outer.low,
            "p10": inner.low,
            "p50": ensemble.median(of),
            "p90": inner.high,
            "p97.5": outer.high,
            "standard_error": ensemble.deviation(of),
        });
        (name.to_owned(), value)
    };
    Value::Object(CONSTANTS.into_iter().map(of).collect())
}

fn frontier(law: &FrontierLaw, ensemble: Option<&FrontierEnsemble>) -> Value {
    let level = Level::Percent80;
    json!({
        "params": { "coefficient": law.params.coefficient, "exponent": law.params.exponent },
        "tokens": { "coefficient": law.tokens.coefficient, "exponent": law.tokens.exponent },
        "exponent_80": ensemble.map(|all| ends(all.interval(level, |law| law.params.exponent))),
    })
}

fn window((window, law): &(f64, FrontierLaw)) -> Value {
    let window = if window.is_finite() { json!(window) } else { json!("all") };
    json!({ "window": window, "exponent": law.params.exponent, "coefficient": law.params.coefficient })
}

fn parabola(parabola: &puna_laws::Parabola) -> Value {
    json!({
        "budget": parabola.budget,
        "runs": parabola.points,
        "fitted": parabola.fitted,
        "params": parabola.params,
        "tokens": parabola.tokens,
        "loss": parabola.loss,
    })
}

fn prediction(prediction: &Prediction) -> Value {
    let allocation = &prediction.allocation;
    json!({
        "asked": match prediction.question {
            Question::Flops(_) => "flops",
            Question::Run(..) => "params_tokens",
        },
        "approach": match prediction.approach {
            Approach::Parabolas => 2,
            Approach::Law => 3,
        },
        "flops": allocation.flops,
        "params": allocation.params,
        "tokens": allocation.tokens,
        "tokens_per_param": allocation.ratio(),
        "loss": allocation.loss,
        "loss_80": prediction.loss.map(ends),
        "params_80": prediction.params.map(ends),
        "tokens_per_param_80": prediction.ratio.map(ends),
        "decades_extrapolated": prediction.decades,
    })
}

fn ends(interval: Interval) -> [f64; 2] {
    [interval.low, interval.high]
}

/// Six significant digits, in as few letters.
pub(super) fn six_digits(value: f64) -> String {
    let decimals = (5.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    if value >= 1e6 {
        return format!("{value:.5e}");
    }
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::six_digits;

    #[test]
    fn six_digits_are_kept() {
        assert_eq!(six_digits(482.005_72), "482.006");
        assert_eq!(six_digits(0.347_812_3), "0.347812");
        assert_eq!(six_digits(2085.4342), "2085.43");
        assert_eq!(six_digits(12_345_678.0), "1.23457e7");
        assert_eq!(six_digits(1.8), "1.8");
    }
}
