//! `puna sweep`: a grid of tiny models, stopped and gone on with, and what it refuses.

use std::fs;

use crate::run::{arg, puna};
use crate::train::Run;

fn sweep(run: &Run, flags: &[&str]) -> crate::run::Ran {
    let recipe = format!(
        "task = \"pretrain\"\noutput = {:?}\nseed = 3\n\
         [sweep]\nbudgets = [1e8, 1e9]\nsizes = 2\nratio = 1.5\ntokens_per_param = 1\n\
         batch_tokens = {{ coefficient = 32, exponent = 0 }}\n\
         [sweep.shape]\nhidden_multiple = 4\nhead_dim = 4\n\
         [data]\ntrain = {:?}\nsequence_length = 32\n",
        arg(&run.path("swept")),
        arg(&run.path("tokens"))
    );
    let path = run.path("sweep.toml");
    fs::write(&path, recipe).expect("written");
    let mut args = vec!["sweep", arg(&path)];
    args.extend(flags);
    puna(&args)
}

#[test]
fn the_runs_of_a_sweep_keep_to_their_budgets() {
    let run = Run::new();
    let listed = sweep(&run, &["--list", "--json"]);
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    let runs: Vec<serde_json::Value> = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(runs.len(), 4);
    for one in &runs {
        let (budget, spent) = (one["budget_flops"].as_f64(), one["flops_6nd"].as_f64());
        let ratio = spent.expect("a number") / budget.expect("a number");
        assert!((0.97..1.03).contains(&ratio), "{one}");
        assert!(one["flops_exact"].as_f64() > spent, "attention costs: {one}");
    }
    let params: Vec<u64> =
        runs.iter().map(|one| one["params_matmul"].as_u64().expect("a number")).collect();
    assert!(params[0] < params[1] && params[2] < params[3] && params[0] < params[2], "{params:?}");
}

#[test]
fn a_sweep_writes_its_table_and_makes_no_run_twice() {
    let run = Run::new();
    let made = sweep(&run, &["--no-held-out"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let csv = fs::read_to_string(run.path("swept/sweep.csv")).expect("a table");
    assert_eq!(csv.lines().count(), 5, "{csv}");
    let again = sweep(&run, &["--no-held-out"]);
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(!again.stderr.contains("run 1 of"), "{}", again.stderr);
    assert_eq!(fs::read_to_string(run.path("swept/sweep.csv")).expect("a table"), csv);
    // Another rule would make other runs of the same names.
    let slower = "sweep.lr={ coefficient = 0.1, exponent = -0.125 }";
    let other = sweep(&run, &["--no-held-out", "--set", slower]);
    assert_eq!(other.code, 2);
    assert!(other.stderr.contains("is of another recipe"), "{}", other.stderr);
}

#[test]
fn nonsense_in_a_sweep_is_named() {
    let run = Run::new();
    for (set, said) in [
        ("sweep.budgets=[]", "sweep.budgets = []"),
        ("sweep.budgets=[-1.0]", "positive numbers of FLOPs"),
        ("sweep.budgets=[2e9, 1e9]", "rising numbers"),
        ("sweep.budgets=[1e3]", "a run has 50 steps at least"),
        ("sweep.sizes=0", "1 to 100 models"),
        ("sweep.ratio=1", "a number above 1"),
        ("sweep.unknown=1", "unknown field `unknown`"),
        ("optimizer.lr=1e-3", "optimizer.lr is what the sweep decides"),
        ("train.steps=5", "train.steps is what the sweep decides"),
    ] {
        let ran = sweep(&run, &["--list", "--set", set]);
        assert_eq!(ran.code, 2, "{set}: {}", ran.stdout);
        assert!(ran.stderr.contains(said), "{set}: {}", ran.stderr);
    }
}
