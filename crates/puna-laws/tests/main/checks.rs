//! `checks.json`, number by number: every check has a computation here, and one that nobody
//! computes fails.

use puna_config::preset;
use puna_laws::{
    ActivationShape, Allocation, Count, FitOptions, LawName, Optimizer, Outliers, Plan, PowerLaw,
    PowerLawName, Question, RepeatedData, RobustLoss, WeightFormat, Zero, fit, group_by_budget,
    isoflop, kaplan_loss, read_points, training_flops, utilization, without_outliers,
};
use serde_json::Value;

use super::reference::{near, path};

fn besiroglu() -> Allocation {
    LawName::Besiroglu2024.parametric().for_flops(5.76e23)
}

/// The law that Sardana et al. use.
fn served(params: f64, tokens: f64) -> puna_laws::Serving {
    let law = Some(LawName::DeVries2023Sardana2024);
    let question =
        Question { params: Some(params), serve_tokens: Some(tokens), ..Question::default() };
    let choice = puna_laws::Choice { law, ..puna_laws::Choice::default() };
    Plan::of(&question, &choice).unwrap().serving.unwrap()
}

fn fitted(loss: RobustLoss, outliers: bool) -> puna_laws::ParametricLaw {
    let all = read_points(&path("chinchilla_points.csv"), Count::Matmul).unwrap().points;
    let points = if outliers { all } else { without_outliers(&all, Outliers::default()).0 };
    let options = FitOptions { loss, ..FitOptions::default() };
    fit(&points, &options, &|_, _| ()).unwrap().law
}

/// Bytes of the cache for `tokens` tokens.
fn cache(model: &str, tokens: u64) -> f64 {
    (preset(model).unwrap().unwrap().decoder.kv_bytes_per_token(2) * tokens) as f64
}

fn scores(heads: f64, hidden: f64) -> f64 {
    let (seq, micro_batch, tp) = (2048.0, 1.0, 1.0);
    let shape = ActivationShape { seq, micro_batch, hidden, heads, tp, sequence_parallel: false };
    shape.score_term()
}

/// Llama 2 70B's hours.
fn llama_2_70b() -> f64 {
    let params = preset("llama-2-70b").unwrap().unwrap().decoder.parameters().total as f64;
    utilization(training_flops(params, 2e12), 1_720_320.0 * 3600.0, 312e12)
}

fn compute(id: &str) -> Option<f64> {
    let gib = puna_laws::GIB;
    let l1 = || fitted(RobustLoss::L1, false);
    let huber = || fitted(RobustLoss::default(), false);
    let repeated = RepeatedData::default();
    Some(match id {
        "fit_245_outliers_A" => fitted(RobustLoss::default(), true).a,
        "fit_l1_limit_A" => l1().a,
        "fit_l1_limit_B" => l1().b,
        "fit_l1_limit_E" => l1().e,
        "fit_l1_limit_alpha" => l1().alpha,
        "fit_l1_limit_beta" => l1().beta,
        "fit_huber_A" => huber().a,
        "fit_huber_B" => huber().b,
        "fit_huber_E" => huber().e,
        "fit_huber_alpha" => huber().alpha,
        "fit_huber_beta" => huber().beta,
        "isoflop_a" => isoflop_exponent(),
        "a_hoffmann_tex" => LawName::Hoffmann2022Tex.parametric().exponent(),
        "a_besiroglu" => LawName::Besiroglu2024.parametric().exponent(),
        "besiroglu_opt_N" => besiroglu().params,
        "besiroglu_opt_D" => besiroglu().tokens,
        "besiroglu_opt_ratio" => besiroglu().ratio(),
        "besiroglu_loss_70B_1.4T" => LawName::Besiroglu2024.parametric().loss(70e9, 1.4e12),
        "hoffmann_rounded_opt_N_gopher" => {
            LawName::Hoffmann2022Rounded.parametric().for_flops(5.76e23).params
        }
        "devries_D_70B" => LawName::DeVries2023Sardana2024.parametric().for_params(70e9).tokens,
        "kaplan_L_N_1.5e9" => kaplan_loss(1.5e9),
        "llama3_printed_pair" => PowerLaw { coefficient: 0.29, exponent: 0.53 }.at(3.8e25),
        "llama3_figure_pair" => PowerLawName::Llama3.frontier().tokens_for_flops(3.8e25),
        "llama3_405b_6nd" => {
            let counts = preset("llama-3.1-405b").unwrap().unwrap().decoder.parameters();
            training_flops(counts.total as f64, 15.6e12)
        }
        "sardana_7B_1e11_N" => served(7e9, 1e11).optimum.params,
        "sardana_30B_1e13_N" => served(30e9, 1e13).optimum.params,
        "sardana_70B_1e13_N" => served(70e9, 1e13).optimum.params,
        "sardana_70B_1e13_D" => served(70e9, 1e13).optimum.tokens,
        "sardana_13B_saving" => {
            let serving = served(13e9, 2e12);
            serving.total_flops(&serving.base) - serving.total_flops(&serving.optimum)
        }
        "muennighoff_4epochs" => repeated.effective_tokens(4e9, 1e9) / 1e9,
        "muennighoff_limit" => repeated.effective_tokens(1e15, 1e9) / 1e9,
        "muennighoff_paper_toy" => {
            RepeatedData { token_decay: 3.0, ..repeated }.effective_tokens(5.0, 1.0)
        }
        "llama1_65b_tok_s_gpu" => 1.4e12 / (1_022_362.0 * 3600.0),
        "llama2_70b_mfu" => llama_2_70b(),
        "q2_k_bits" => WeightFormat::Q2K.bits(),
        "q3_k_bits" => WeightFormat::Q3K.bits(),
        "q4_0_bits" => WeightFormat::Q4_0.bits(),
        "q4_k_bits" => WeightFormat::Q4K.bits(),
        "q5_k_bits" => WeightFormat::Q5K.bits(),
        "q6_k_bits" => WeightFormat::Q6K.bits(),
        "q8_0_bits" => WeightFormat::Q8_0.bits(),
        "zero0" | "zero1" | "zero2" | "zero3" => {
            let stage = usize::from(id.as_bytes()[4] - b'0');
            7.5e9 * Zero::ALL[stage].shard(Optimizer::AdamW.state_bytes(), 64).total()
        }
        "kv_llama2_7b" => cache("llama-2-7b", 1),
        "kv_llama2_70b" => cache("llama-2-70b", 1),
        "kv_llama2_13b_4k_GiB" => cache("llama-2-13b", 4096) / gib,
        "kv_llama31_405b_128k_GiB" => cache("llama-3.1-405b", 131_072) / gib,
        "act_gpt3_5as_h" => scores(96.0, 12_288.0),
        "act_mtnlg_5as_h" => scores(128.0, 20_480.0),
        _ => return None,
    })
}

/// Approach 2 on Besiroglu's points.
fn isoflop_exponent() -> f64 {
    let file = read_points(&path("chinchilla_points.csv"), Count::Matmul).unwrap();
    let groups = group_by_budget(&file.points, &file.budgets());
    isoflop(&groups).unwrap().law.params.exponent
}

/// Checks that are no number but an equation.
fn identity(id: &str, part: f64) -> bool {
    match id {
        "foc_inference" => {
            let law = LawName::Besiroglu2024.parametric();
            for (params, tokens) in [(7e9, 1e11), (30e9, 1e13), (70e9, 2e12)] {
                let best = law.for_serving(law.for_params(params), tokens);
                let by_params = law.alpha * law.a * best.params.powf(-law.alpha);
                let by_tokens = law.beta * law.b * best.tokens.powf(-law.beta);
                near(by_params / by_tokens, 1.0 + tokens / (3.0 * best.tokens), part, id);
            }
            true
        }
        _ => false,
    }
}

#[test]
fn every_recorded_check_is_computed() {
    let text = std::fs::read_to_string(path("checks.json")).unwrap();
    let checks: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(checks.len() >= 43, "{}", checks.len());
    for check in &checks {
        let id = check["id"].as_str().unwrap();
        let part = check["rel_tol"].as_f64().unwrap();
        match check["expected"].as_f64() {
            Some(expected) => {
                let got = compute(id).unwrap_or_else(|| panic!("nobody computes {id}"));
                near(got, expected, part, id);
            }
            None => assert!(identity(id, part), "nobody computes {id}"),
        }
    }
}
