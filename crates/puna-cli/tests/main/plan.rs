//! `puna plan`: the JSON that others read, what a person reads, and what it refuses.

use serde_json::Value;

use crate::run::{Ran, arg, puna};

fn plan(args: &[&str]) -> Ran {
    puna(&[&["plan"], args].concat())
}

fn json(args: &[&str]) -> Value {
    plan(&[args, &["--json"]].concat()).json()
}

#[track_caller]
fn near(value: &Value, expected: f64, part: f64) {
    let got = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!((got / expected - 1.0).abs() <= part, "{got} instead of {expected}");
}

#[test]
fn a_plan_in_json_has_the_keys_that_scripts_read() {
    let plan = json(&["--flops", "5.76e23"]);
    assert_eq!(plan["law"], "besiroglu2024");
    near(&plan["flops"], 5.76e23, 1e-12);
    near(&plan["params"], 7.22487e10, 1e-5);
    near(&plan["tokens"], 1.32874e12, 1e-5);
    near(&plan["tokens_per_param"], 18.391, 1e-4);
    near(&plan["loss"], 1.974441, 1e-6);
    let interval = &plan["interval"];
    near(&interval["params"][0], 5.75e10, 0.05);
    near(&interval["params"][1], 9.86e10, 0.05);
    near(&interval["tokens_per_param"][0], 9.88, 0.05);
    near(&interval["tokens_per_param"][1], 29.0, 0.05);
    assert!(plan["memory"]["items"].as_array().is_some_and(|items| items.len() >= 4));
    assert!(plan["gpu_hours"].as_f64().unwrap() > 1e5 && plan["days"].as_f64().unwrap() > 1.0);
}

#[test]
fn each_wish_takes_every_law_by_its_name() {
    let plan = json(&["--params", "70B", "--law", "devries2023_sardana2024"]);
    near(&plan["tokens"], 4.254741e12, 1e-6);
    assert_eq!(plan["law"], "devries2023_sardana2024");
    assert_eq!(plan["interval"], Value::Null); // no bootstrap of it is published
    let plan = json(&["--tokens", "1.4T"]);
    near(&plan["params"], 7.63293e10, 1e-5);
    let plan = json(&["--loss", "2.2"]);
    near(&plan["flops"], 3.91824e21, 1e-5);
    let plan = json(&["--params", "70B", "--tokens", "1.4T"]);
    near(&plan["loss"], 1.973882, 1e-6);
}

#[test]
fn serving_and_scarce_text_move_the_optimum() {
    let served =
        json(&["--params", "13B", "--serve-tokens", "2T", "--law", "devries2023_sardana2024"]);
    near(&served["params"], 6.9686e9, 1e-4);
    near(&served["tokens"], 1.24784e12, 1e-4);
    near(&served["serving"]["saving"], 0.17447, 1e-3);
    let scarce = json(&["--params", "8.7B", "--tokens", "178B", "--unique-tokens", "25B"]);
    assert_eq!(scarce["law"], "muennighoff2023_c4");
    near(&scarce["loss"], 2.226848, 1e-6);
    near(&scarce["repeated"]["epochs"], 7.12, 1e-6);
    let ran = plan(&["--flops", "1e20", "--unique-tokens", "10M"]);
    assert!(ran.stderr.contains("overfits"), "{}", ran.stderr);
    let ran = plan(&["--params", "1B", "--tokens", "2T"]);
    assert!(ran.stderr.contains("2000 tokens per parameter"), "{}", ran.stderr);
}

#[test]
fn a_machine_for_a_time_is_a_budget() {
    for args in [
        &["--gpu", "h100", "--gpus", "8", "--days", "7"][..],
        &["--gpu", "8xh100", "--hours", "168"],
        &["--gpu", "h100", "--gpus", "8", "--budget", "2688", "--price", "2"],
    ] {
        let plan = json(args);
        near(&plan["flops"], 1.91484e21, 1e-5);
        near(&plan["params"], 3.8764e9, 1e-4);
        near(&plan["gpu_hours"], 1344.0, 1e-9);
        near(&plan["days"], 7.0, 1e-9);
    }
}

#[test]
fn thirteen_billion_fit_a_node_of_a100_40gb_with_2_9_gib_to_spare() {
    let args = ["--params", "13B", "--seq", "4096", "--gpus", "8", "--gpu", "a100-40"];
    let ran = plan(&args);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for part in ["37.07", "fits, 2.9 GiB free before context", "TP4", "DP2", "ZeRO-1"] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let memory = &json(&args)["memory"];
    near(&memory["total_gib"], 37.07, 2e-4);
    assert_eq!(memory["fits"], true);
    assert_eq!(memory["layout"]["tp"], 4);
    let more = ["--micro-batch", "2", "--tp", "4", "--pp", "1", "--zero", "1"];
    let full = plan(&[&args[..], &more, &["--recompute", "selective"]].concat());
    assert_eq!(full.code, 1, "{}", full.stdout);
    assert!(full.stdout.contains("does not fit"), "{}", full.stdout);
}

#[test]
fn adapters_and_serving_are_about_memory_and_not_about_laws() {
    let qlora = json(&["--params", "8B", "--method", "qlora", "--gpu", "4090"]);
    assert_eq!(qlora["memory"]["fits"], true);
    assert_eq!(qlora["memory"]["gpus"], 1);
    assert_eq!(qlora["gpu_hours"], Value::Null);
    let trained =
        json(&["--model", "llama-3.1-8b", "--method", "lora", "--gpu", "h100", "--tokens", "10M"]);
    near(&trained["flops"], 4.0 * 8_030_261_248.0 * 1e7, 1e-9);
    let served = json(&[
        "--model",
        "llama-3-8b",
        "--method",
        "inference",
        "--seq",
        "8192",
        "--gpu",
        "4090",
        "--precision",
        "q4_0",
    ]);
    near(&served["memory"]["items"][1]["gib"], 1.0, 1e-9); // 131,072 bytes per token
    assert!(served["decode_tokens_per_sec_at_most"].as_f64().unwrap() > 100.0);
}

#[test]
fn claims_are_computed_with_inputs_and_verdicts() {
    let ran = plan(&["--why", "--json"]);
    let claims = ran.json();
    let ids: Vec<&str> = claims
        .as_array()
        .unwrap()
        .iter()
        .map(|claim| {
            assert!(claim["inputs"].is_object() && claim["verdict"].is_string(), "{claim}");
            claim["id"].as_str().unwrap()
        })
        .collect();
    assert_eq!(
        ids,
        [
            "tokens_1.4T_70B",
            "6B_consumer",
            "13B_4k_node",
            "sizes_fill",
            "8x8_80x6",
            "meta_smaller_longer"
        ]
    );
    near(&claims[0]["computed"]["besiroglu_params"], 7.63293e10, 1e-5);
    near(&claims[2]["computed"]["tp4_dp2_zero1_mb1"], 37.07, 2e-4);
    assert_eq!(claims[5]["computed"]["tokens_7b_same_loss_as_70b"], "unreachable");
    let text = plan(&["--why"]).stdout;
    assert_eq!(text.matches("verdict").count(), 6, "{text}");
}

#[test]
fn what_cannot_be_is_refused_with_advice() {
    let cases: [(&[&str], &str); 21] = [
        (&[], "a budget, a size"),
        (&["--flops", "0"], "positive"),
        (&["--params", "-7B"], "positive"),
        (&["--tokens", "nan"], "positive"),
        (&["--params", "seven"], "no number"),
        (&["--flops", "1e23", "--params", "7B", "--tokens", "1T"], "disagrees"),
        (&["--flops", "1e23", "--loss", "2"], "cannot both be given"),
        (&["--flops", "1e23", "--gpu", "h100", "--gpus", "8", "--days", "7"], "both"),
        (&["--budget", "1000", "--gpu", "h100"], "--price"),
        (&["--days", "7"], "--gpu"),
        (&["--flops", "1e29"], "--extrapolate"),
        (&["--flops", "1e12"], "--extrapolate"),
        (&["--flops", "1e23", "--law", "hoffmann2022_rounded"], "92.65"),
        (&["--flops", "1e23", "--law", "chinchilla"], "besiroglu2024"),
        (&["--flops", "1e23", "--gpu", "tpu"], "H200"),
        (&["--loss", "1.5"], "unreachable"),
        (&["--params", "7B", "--loss", "1.97"], "any number of tokens"),
        (&["--params", "13B", "--gpu", "8xh100", "--tp", "3"], "--tp"),
        (&["--params", "8B", "--method", "qlora", "--flops", "1e20"], "--method full"),
        (&["--method", "lora"], "--params"),
        (&["--params", "8B", "--precision", "q4_0"], "bf16"),
    ];
    for (args, part) in cases {
        let ran = plan(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.is_empty() && ran.stderr.contains(part), "{args:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn who_insists_may_extrapolate_and_use_rounded_constants() {
    assert_eq!(plan(&["--flops", "3.8e25", "--extrapolate"]).code, 0);
    let rounded = json(&["--flops", "5.76e23", "--law", "hoffmann2022_rounded", "--force"]);
    near(&rounded["tokens_per_param"], 92.65, 1e-3);
    assert!(rounded["warnings"][0].as_str().unwrap().contains("rounded"));
}

#[test]
fn a_config_file_is_planned_as_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("config.json");
    let config = r#"{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
        "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-06}"#;
    std::fs::write(&path, config).expect("written");
    let plan = json(&["--model", path.to_str().expect("UTF-8")]);
    near(&plan["params"], 6_738_415_616.0, 1e-12);
    assert_eq!(plan["memory"]["seq"], 2048);
    let ran = puna(&["plan", "--model", "llama-9"]);
    assert!(ran.stderr.contains("llama-3.1-8b"), "{}", ran.stderr);
}

#[test]
fn a_recipe_is_predicted_before_its_run_and_compared_after() {
    let run = crate::train::Run::new();
    let recipe = run.path("recipe.toml");
    let output = format!("output={}", arg(&run.path("planned")));
    let args = ["--machine", arg(&recipe), "--set", &output, "-t", "1"];
    std::fs::create_dir(run.path("planned.probe")).expect("made");
    let refused = plan(&args);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("exists already"), "{}", refused.stderr);
    std::fs::remove_dir(run.path("planned.probe")).expect("still there, and empty");
    let before = json(&args);
    assert!(before["machine"]["read_bytes_per_second"].as_f64().unwrap() > 1e6);
    assert_eq!(before["outcome"], Value::Null);
    let predicted = &before["predicted"];
    assert_eq!(predicted["steps"], 12);
    assert!(predicted["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(!run.path("planned.probe").exists(), "the folder of the few steps is removed");
    let trained = run.train("planned", &["log.validate_every_steps=0"], &[]);
    assert_eq!(trained.code, 0, "{}", trained.stderr);
    let after = json(&args);
    assert_eq!(&after["predicted"], predicted, "what was said before the run stays");
    assert_eq!(after["predicted_before_the_run"], true);
    let outcome = &after["outcome"];
    assert_eq!(outcome["steps"], 12);
    let of = |value: &Value| value["peak_bytes"].as_f64().unwrap();
    assert!((0.3..3.0).contains(&(of(predicted) / of(outcome))), "{after}");
}

#[test]
fn a_machine_without_a_recipe_is_only_measured() {
    let ran = plan(&["--machine", "-t", "1"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("GB/s read"), "{}", ran.stdout);
    let wrong = plan(&["--machine", "nowhere.toml"]);
    assert_eq!(wrong.code, 2);
    assert!(wrong.stderr.contains("nowhere.toml"), "{}", wrong.stderr);
}
