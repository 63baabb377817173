//! The sweep in docs/laws: its table gives the law and the prediction that the page tells of.

use std::path::Path;

use puna_laws::{Count, FitOptions, fit, read_points};
use serde_json::Value;

#[test]
fn the_recorded_sweep_gives_the_recorded_prediction() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/laws");
    let file = read_points(&folder.join("sweep.csv"), Count::Matmul).unwrap();
    let budgets: Vec<f64> = file.points.iter().map(|point| point.flops()).collect();
    let largest = budgets.iter().copied().fold(0.0, f64::max);
    let smallest = budgets.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(file.points.len() >= 20 && largest / smallest >= 30.0);
    let law = fit(&file.points, &FitOptions::default(), &|_, _| ()).unwrap().law;
    let text = std::fs::read_to_string(folder.join("held-out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&text).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let run = &held_out["run"];
    assert!(number(&run["flops_6nd"]) > 2.5 * largest);
    let predicted = law.loss(number(&run["params_matmul"]), number(&run["tokens"]));
    assert!((predicted - number(&held_out["loss"])).abs() < 2e-3, "{predicted}");
    let error = predicted / number(&held_out["reached_loss"]) - 1.0;
    assert!((error - number(&held_out["relative_error"])).abs() < 1e-3, "{error}");
}
