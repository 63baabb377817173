//! The sweep in docs/laws: its table gives the laws and the prediction that the page tells of.

use std::path::Path;

use puna_laws::{
    Budgets, Count, FitOptions, LossFrontier, fit, group_by_budget, isoflop, read_points,
};
use serde_json::Value;

#[test]
fn the_recorded_sweep_predicts_its_held_out_run_within_three_percent() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/laws");
    let file = read_points(&folder.join("sweep.csv"), Count::Matmul).unwrap();
    let groups = group_by_budget(&file.points, &Budgets::Named);
    assert!(groups.len() >= 4 && groups.iter().all(|group| group.points.len() >= 5));
    let (smallest, largest) = (groups[0].budget, groups[groups.len() - 1].budget);
    assert!(largest / smallest >= 30.0);
    let text = std::fs::read_to_string(folder.join("held-out.json")).unwrap();
    let held_out: Value = serde_json::from_str(&text).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let run = &held_out["run"];
    let flops = number(&run["flops_6nd"]);
    assert!(flops > 2.5 * largest);

    let parabolas = isoflop(&groups).unwrap();
    let predicted = parabolas.loss.unwrap().at(flops);
    assert!((predicted - number(&held_out["loss"])).abs() < 1e-3, "{predicted}");
    let best = parabolas.law.params_for_flops(flops);
    assert!((best / number(&run["params_matmul"])).ln().abs() < 0.2, "{best}");
    let error = predicted / number(&held_out["reached_loss"]) - 1.0;
    assert!(error.abs() < 0.03, "{error}");
    assert!((error - number(&held_out["relative_error"])).abs() < 1e-3, "{error}");

    let law = fit(&file.points, &FitOptions::default(), &|_, _| ()).unwrap().law;
    let by_law = law.loss(number(&run["params_matmul"]), number(&run["tokens"]));
    assert!((by_law - number(&held_out["parametric_loss"])).abs() < 2e-3, "{by_law}");
}

#[test]
fn the_embedded_model_s_loss_was_predicted_as_its_card_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/laws");
    let pilot = read_points(&folder.join("pilot.csv"), Count::Matmul).unwrap();
    let lowest: Vec<(f64, f64)> = pilot.points.iter().map(|p| (p.flops(), p.loss)).collect();
    let law = LossFrontier::fit(&lowest).unwrap();
    assert_eq!(law.floor, 0.0);
    assert!((law.at(7e14) - 2.097).abs() < 1e-3, "{}", law.at(7e14));
}
