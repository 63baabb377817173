//! The claims against the numbers they were checked with elsewhere, and the tables of what fills
//! which machine.

use puna_laws::{
    CARDS, Claim, MIN_FILL, WeightFormat, claims, inference_fill, training_fill, weight_bytes,
};
use serde_json::Value;

use super::reference::{near, path, table};

/// Numbers are recorded with three or four digits.
const PRINTED: f64 = 2.5e-3;

fn recorded() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(path("claims.json")).unwrap()).unwrap()
}

fn computed(id: &str) -> Claim {
    claims().unwrap().into_iter().find(|claim| claim.id == id).unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn every_recorded_claim_is_computed_with_its_numbers() {
    let recorded = recorded();
    assert_eq!(recorded.len(), claims().unwrap().len());
    let mut compared = 0;
    for record in &recorded {
        let id = record["id"].as_str().unwrap();
        let claim = computed(id);
        assert_eq!(
            claim.quote.replace(", ", ","),
            record["quote"].as_str().unwrap().replace(", ", ",")
        );
        for group in ["expected", "expected_gib"] {
            for (key, expected) in record[group].as_object().into_iter().flatten() {
                let figures = claim.computed();
                let got = figures.get(key).unwrap_or_else(|| panic!("{id}: no {key}"));
                match expected.as_f64() {
                    Some(expected) => {
                        let got = got.as_f64().unwrap();
                        let hundredths = expected > 0.5 && (got - expected).abs() <= 0.005; // GiB have two decimals
                        let part = if hundredths { 1.0 } else { PRINTED };
                        near(got, expected, part, &format!("{id}: {key}"));
                    }
                    None => assert_eq!(got, expected, "{id}: {key}"),
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "{compared}");
}

#[test]
fn every_size_of_the_claim_fills_its_recorded_machine() {
    let claim = computed("sizes_fill");
    let recorded = recorded();
    let record = recorded.iter().find(|record| record["id"] == "sizes_fill").unwrap();
    let witnesses = record["witness"].as_object().unwrap();
    assert_eq!(witnesses.len(), claim.figures.len());
    for (size, witness) in witnesses {
        let computed = claim.computed();
        let got = &computed[size.as_str()];
        assert_eq!(got.as_array().unwrap()[..3], witness.as_array().unwrap()[..3], "{size}");
        let (fill, printed) = (got[3].as_f64().unwrap(), witness[3].as_f64().unwrap());
        assert!((fill - printed).abs() <= 6e-3, "{size}: {fill} {printed}");
        assert!(fill >= MIN_FILL, "{size}: {fill}");
    }
    assert!(claim.verdict.starts_with("true"), "{}", claim.verdict);
}

#[test]
fn verdicts_follow_from_the_numbers() {
    let tokens = computed("tokens_1.4T_70B").verdict;
    let (yes, no) = tokens.split_once("; false for ").unwrap();
    assert!(yes.contains("approach 1") && yes.contains("Besiroglu"), "{tokens}");
    assert!(no.contains("approach 3") && !no.contains("approach 1"), "{tokens}");
    let consumer = computed("6B_consumer").verdict;
    for part in [
        "fp16 on 16 GB",
        "int8 on 12 GB",
        "LoRA on 16 GB",
        "QLoRA on 12 GB",
        "full training on no card (92 GiB)",
        "2.8B and 1.4B",
    ] {
        assert!(consumer.contains(part), "{part}: {consumer}");
    }
    let node = computed("13B_4k_node").verdict;
    let parts = [
        "92.7 % of A100-SXM4-40GB",
        "94.4 % of A100-SXM4-80GB",
        "fp16 does not fit",
        "int8 fits",
        "q4_0 fits",
    ];
    for part in parts {
        assert!(node.contains(part), "{part}: {node}");
    }
    let smaller = computed("meta_smaller_longer");
    assert!(smaller.verdict.contains("never reaches"), "{}", smaller.verdict);
    // 319T tokens by the refit, 13.0T by de Vries's constants.
    near(smaller.number("tokens_13b_same_loss_as_70b").unwrap(), 319e12, 5e-3, "refit");
    near(smaller.number("tokens_13b_same_loss_as_70b_devries").unwrap(), 13.0e12, 5e-3, "de Vries");
}

fn format(name: &str) -> WeightFormat {
    name.parse().unwrap()
}

#[test]
fn sizes_fill_machines_in_inference_as_tabulated() {
    let rows = table("size_fill_inference.csv");
    assert!(rows.len() > 300);
    for row in &rows {
        let (size, kind, label) = (row.number("size_b"), row.text("format"), row.text("card"));
        let what = format!("{size}B {kind} on {label}");
        let gpu = CARDS.iter().find(|card| card.label == label).expect("a card").gpu;
        let weights = weight_bytes(size * 1e9, format(kind)) / puna_laws::GIB;
        assert!((weights - row.number("weights_gib")).abs() < 6e-3, "{what}");
        let fill = inference_fill(size * 1e9, format(kind), gpu).unwrap().expect(&what);
        assert!((fill.need_gib - row.number("need_gib_weights_x1.10")).abs() < 6e-3, "{what}");
        assert_eq!(fill.count as f64, row.number("n_cards_smallest"), "{what}");
        let capacity = row.number("usable_gib_minus_0.75_each");
        // The table multiplies card sizes that were rounded to 0.01 GiB.
        assert!((fill.capacity_gib - capacity).abs() < 0.006 * fill.count as f64 + 1e-9, "{what}");
        assert!((fill.fill - row.number("fill")).abs() < 1e-3, "{what}: {}", fill.fill);
    }
    // What is not in the table does not fit 8 cards.
    let listed = |size: f64, kind: &str, label: &str| {
        rows.iter().any(|row| {
            row.number("size_b") == size && row.text("format") == kind && row.text("card") == label
        })
    };
    for size in [16.0, 34.0, 52.0, 56.0, 65.0, 70.0, 100.0, 130.0, 170.0, 220.0] {
        for kind in ["fp16", "q8_0", "q4_0"] {
            for card in CARDS {
                let fits = inference_fill(size * 1e9, format(kind), card.gpu).unwrap().is_some();
                assert_eq!(fits, listed(size, kind, card.label), "{size} {kind} {}", card.label);
            }
        }
    }
}

#[test]
fn sizes_fill_nodes_in_training_as_tabulated() {
    let rows = table("size_fill_training.csv");
    assert_eq!(rows.len(), 39);
    for row in &rows {
        let (size, label) = (row.number("size_b"), row.text("card"));
        let gpu = match label {
            "A100-40GB" => "a100-40",
            "A100/H100-80GB" => "h100",
            "H200-141GB" => "h200",
            other => panic!("{other}"),
        };
        let fill = training_fill(size * 1e9, gpu).unwrap();
        let what = format!("{size}B on {label}");
        let count = row.number("n_gpus_smallest_multiple_of_8_with_20pct_for_activations");
        assert_eq!(fill.count as f64, count, "{what}");
        assert!((fill.states_gib - row.number("states_gib_16B_per_param")).abs() < 0.06, "{what}");
        let per_gpu = row.number("states_gib_per_gpu_fully_sharded");
        assert!((fill.per_gpu_gib - per_gpu).abs() < 6e-3, "{what}");
        assert!((fill.fill - row.number("state_fill")).abs() < 1e-3, "{what}");
    }
}
