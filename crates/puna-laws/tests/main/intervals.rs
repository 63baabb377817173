//! The bootstrap of the published constants against Epoch's.

use puna_laws::{Ensemble, Interval, LawName, Level, ParametricLaw};

use super::reference::{near, table};

/// Other resamples than theirs: the ends of an interval move by their own sampling error, the more
/// the farther from the data, which end at 1.3e22.
fn tolerance(quantity: &str, flops: f64) -> f64 {
    match quantity {
        "loss" => 0.002,
        _ if flops > 1e25 => 0.08,
        _ if flops > 1e23 => 0.06,
        _ => 0.03,
    }
}

#[test]
fn the_published_bootstrap_has_epoch_s_intervals() {
    let all = Ensemble::published();
    assert!(all.laws().len() > 3900, "{}", all.laws().len());
    let rows = table("plan_ci_epoch_bootstrap.csv");
    assert_eq!(rows.len(), 12);
    for row in rows {
        let flops = row.number("flops");
        let quantity = row.text("quantity").to_owned();
        let of = |level| match quantity.as_str() {
            "params" => all.params_for_flops(flops, level),
            "tokens_per_param" => all.ratio_for_flops(flops, level),
            "loss" => all.loss_for_flops(flops, level),
            other => panic!("{other:?}"),
        };
        let part = tolerance(&quantity, flops);
        let what = |end: &str| format!("{quantity} at {flops:e}, {end}");
        let Interval { low, high } = of(Level::Percent80);
        near(low, row.number("p10"), part, &what("p10"));
        near(high, row.number("p90"), part, &what("p90"));
        let Interval { low, high } = of(Level::Percent95);
        near(low, row.number("p2.5"), part, &what("p2.5"));
        near(high, row.number("p97.5"), part, &what("p97.5"));
        let median = match quantity.as_str() {
            "params" => all.median(|law| law.for_flops(flops).params),
            "tokens_per_param" => all.median(|law| law.for_flops(flops).ratio()),
            _ => all.median(|law| law.for_flops(flops).loss),
        };
        near(median, row.number("p50"), part, &what("p50"));
    }
}

/// A constant of the law, Epoch's interval and standard error, and how far ours may be from them.
type Recorded = (fn(&ParametricLaw) -> f64, (f64, f64), f64, f64);

#[test]
fn the_constants_have_epoch_s_standard_errors() {
    let all = Ensemble::published();
    let recorded: [Recorded; 5] = [
        (|law| law.a, (285.214, 743.626), 124.522, 0.06),
        (|law| law.b, (1042.357, 5810.344), 1293.28, 0.06),
        (|law| law.e, (1.769, 1.871), 0.02566, 0.003),
        (|law| law.alpha, (0.317, 0.373), 0.0154, 0.01),
        (|law| law.beta, (0.331, 0.415), 0.0206, 0.01),
    ];
    for (of, (low, high), error, part) in recorded {
        let between = all.interval(Level::Percent95, of);
        near(between.low, low, part, "2.5 %");
        near(between.high, high, part, "97.5 %");
        near(all.deviation(of), error, 0.08, "standard error");
        let published = of(&LawName::Besiroglu2024.parametric());
        assert!(between.low < published && published < between.high);
    }
    let exponent = all.interval(Level::Percent80, ParametricLaw::exponent);
    near(exponent.high - exponent.low, 0.0514, 0.06, "80 % of the exponent");
    near(all.deviation(ParametricLaw::exponent), 0.0200, 0.06, "its standard error");
}
