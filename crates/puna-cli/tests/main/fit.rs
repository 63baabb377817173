//! `puna fit` on the Chinchilla points, on planted laws and on tables that are none.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::run::puna;

fn chinchilla() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/laws");
    folder.join("chinchilla_points.csv").to_string_lossy().into_owned()
}

/// Writes a table and gives its path.
fn table(folder: &Path, text: &str) -> String {
    let path: PathBuf = folder.join("runs.csv");
    std::fs::write(&path, text).expect("a scratch folder");
    path.to_string_lossy().into_owned()
}

/// A sweep as `puna sweep` records it, on a law of its own.
fn sweep() -> String {
    let mut text = String::from("budget_flops,params_matmul,params_total,tokens,flops_6nd,loss\n");
    for budget in [1e15, 3e15, 1e16, 3e16] {
        for factor in [0.3, 0.6, 1.0, 1.7, 3.0] {
            let params: f64 = factor * 3e6 * (budget / 1e15_f64).sqrt();
            let tokens = budget / (6.0 * params);
            let loss = 1.5 + 300.0 * params.powf(-0.35) + 1000.0 * tokens.powf(-0.36);
            let all = params * 1.5;
            writeln!(text, "{budget:e},{params},{all},{tokens},{budget:e},{loss}")
                .expect("text grows");
        }
    }
    text
}

#[test]
fn the_chinchilla_points_give_the_minimum_of_hoffmann_s_objective() {
    let fit = puna(&["fit", &chinchilla(), "--bootstrap", "100", "--json"]).json();
    assert_eq!(fit["points_used"], 240);
    let number = |key: &str| fit[key].as_f64().unwrap();
    for (key, expected, part) in [
        ("A", 477.83, 5e-4),
        ("B", 2143.4, 5e-4),
        ("E", 1.81722, 1e-4),
        ("alpha", 0.34731, 1e-4),
        ("beta", 0.36717, 1e-4),
        ("objective", 1.018274e-3, 1e-5),
    ] {
        assert!((number(key) / expected - 1.0).abs() < part, "{key}: {}", number(key));
    }
    assert_eq!(fit["starts"], 300);
    assert!(fit["agreeing_starts"].as_u64().unwrap() > 100);
    for key in ["A", "B", "E", "alpha", "beta", "a"] {
        let ends = ["p2.5", "p10", "p50", "p90", "p97.5"]
            .map(|part| fit["intervals"][key][part].as_f64().unwrap());
        assert!(ends.is_sorted() && ends[0] < number(key) && number(key) < ends[4], "{key}");
    }
    let exponent = fit["approach2"]["params"]["exponent"].as_f64().unwrap();
    assert!((exponent - 0.51272).abs() < 1e-3, "{exponent}");
}

#[test]
fn the_report_says_what_was_left_out_counted_and_extrapolated() {
    let ran = puna(&["fit", &chinchilla(), "--bootstrap", "40", "--predict-flops", "5.76e23"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for words in
        ["240 of 245", "5 highest losses", "n_params", "1 envelope", "2 parabolas", "3 law", "80 %"]
    {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert!(ran.stderr.contains("1.6 decades beyond"), "{}", ran.stderr);
    let far = ["fit", &chinchilla(), "--bootstrap", "0", "--predict-flops", "1e27"];
    let ran = puna(&far);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("4.9 decades") && ran.stderr.contains("--extrapolate"));
    let ran = puna(&[&far[..], &["--extrapolate"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_planted_law_comes_back_by_the_count_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path(), &sweep());
    let out = folder.path().join("figures");
    let out = out.to_string_lossy();
    let args = ["fit", &path, "--bootstrap", "30", "--predict", "10M,2e8", "--out", &out, "--json"];
    let fit = puna(&args).json();
    let near = |got: &serde_json::Value, expected: f64, part: f64| {
        let got = got.as_f64().unwrap();
        assert!((got / expected - 1.0).abs() < part, "{got} {expected}");
    };
    near(&fit["A"], 300.0, 1e-4);
    near(&fit["beta"], 0.36, 1e-5);
    assert!(fit["counted"].as_str().unwrap().contains("matmul"));
    near(
        &fit["predictions"][0]["loss"],
        1.5 + 300.0 * 1e7_f64.powf(-0.35) + 1000.0 * 2e8_f64.powf(-0.36),
        1e-6,
    );
    assert_eq!(fit["approach2"]["parabolas"].as_array().unwrap().len(), 4);
    for name in [
        "isoflop.svg",
        "isoflop.png",
        "contours.png",
        "best-params.svg",
        "fit.json",
        "bootstrap.csv",
    ] {
        assert!(Path::new(&*out).join(name).is_file(), "{name}");
    }
    let fit = puna(&["fit", &path, "--bootstrap", "0", "--count", "all", "--json"]).json();
    assert!(fit["counted"].as_str().unwrap().starts_with("all"));
    near(&fit["A"], 300.0 * 1.5_f64.powf(0.35), 1e-4);
    assert_eq!(fit["intervals"], serde_json::json!({}));
}

#[test]
fn tables_that_determine_no_law_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |text: &str, options: &[&str], words: &[&str]| {
        let path = table(folder.path(), text);
        let ran = puna(&[&["fit", &path], options].concat());
        assert_eq!(ran.code, 2, "{}", ran.stdout);
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
        }
    };
    let sweep = sweep();
    let first = |lines: usize| sweep.lines().take(lines).collect::<Vec<_>>().join("\n");
    refused("", &[], &["runs.csv", "no points"]);
    refused(&first(1), &[], &["no points"]);
    refused("size,loss\n1,2\n", &[], &["size, loss", "n_tokens"]);
    refused(&first(6), &[], &["5 points"]);
    refused(&format!("{}\n1e15,nan,1,1,1,3\n", first(7)), &[], &["line 8", "nan"]);
    refused(&format!("{}\n1e15,1e6,1,1,1,-3\n", first(7)), &[], &["line 8", "loss", "-3"]);
    let same = "N,D,loss\n".to_owned()
        + &(1..9).map(|i| format!("1e8,{i}e9,{}\n", 4.0 - 0.1 * f64::from(i))).collect::<String>();
    refused(&same, &[], &["1 number of parameters"]);
    refused(&sweep, &["--starts", "0"], &["starts"]);
    refused(&sweep, &["--delta", "-1"], &["delta"]);
    refused(&sweep, &["--loss", "l1", "--delta", "0.1"], &["--delta"]);
    refused(&sweep, &["--bootstrap", "5"], &["at least 20"]);
    refused(&sweep, &["--predict", "1e9"], &["1e9", "1B,20B"]);
    refused(&sweep, &["--predict-flops", "-1"], &["-1"]);
    refused(&sweep, &["--approach", "2", "--predict-flops", "1e16"], &["--approach 3"]);
    refused(&sweep, &["--drop-highest", "18"], &["2 points"]);
    let rising = "N,D,loss\n".to_owned()
        + &(1..9)
            .map(|i| format!("{i}e8,{i}e9,{}\n", 2.0 + 0.1 * f64::from(i)))
            .collect::<String>();
    refused(&rising, &[], &["no law"]);
    let ran = puna(&["fit", "/nowhere/runs.csv"]);
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("/nowhere/runs.csv"));
}
