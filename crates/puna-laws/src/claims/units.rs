//! "7B on units of 8 GPUs, 70B on 80 × 6": what the products mean, and how long they take.

use puna_config::DecoderConfig;
use serde_json::{Map, json};

use super::{Claim, Figure, Unit, figure, gib, preset_config};
use crate::cost::{USUAL_MFU, gpu_hours, training_flops, utilization};
use crate::error::Result;
use crate::hardware::{Gpu, Machine};
use crate::layout::Layout;
use crate::memory::Optimizer;

/// A model, its unit (TP, PP) and the copies of it.
const SMALL: (f64, usize, usize, usize) = (7e9, 8, 1, 8);
const LARGE: (f64, usize, usize, usize) = (70e9, 8, 10, 6);
/// Published A100 hours: LLaMA 7B on 1T tokens, Llama 2 7B and 70B on 2T.
const LLAMA_7B_HOURS: f64 = 82_432.0;
const LLAMA2_7B_HOURS: f64 = 184_320.0;
const LLAMA2_70B_HOURS: f64 = 1_720_320.0;

/// Days on a number of GPUs.
fn days(flops: f64, gpu: &Gpu, count: usize, mfu: f64) -> Result<f64> {
    Ok(gpu_hours(flops, gpu.training_peak()?, mfu) / count as f64 / 24.0)
}

/// A run whose days are asked for.
struct Run {
    key: &'static str,
    what: &'static str,
    flops: f64,
    on: On,
    mfu: f64,
}

/// The two clusters of each kind.
#[derive(Clone, Copy)]
enum On {
    Small(Kind),
    Large(Kind),
}

#[derive(Clone, Copy)]
enum Kind {
    A100,
    H100,
}

/// The runs; on A100 with the utilization that the published hours say.
fn runs(small: &DecoderConfig, large: &DecoderConfig, peak: f64) -> [Run; 7] {
    let flops =
        |config: &DecoderConfig, tokens| training_flops(config.parameters().total as f64, tokens);
    let mfu = |flops, hours: f64| utilization(flops, hours * 3600.0, peak);
    let (llama_7b, llama2_7b, llama2_70b) =
        (flops(small, 1e12), flops(small, 2e12), flops(large, 2e12));
    let chinchilla = training_flops(70e9, 1.4e12);
    let run = |key, what, flops, on, mfu| Run { key, what, flops, on, mfu };
    let (small, large) = (On::Small, On::Large);
    let large_mfu = mfu(llama2_70b, LLAMA2_70B_HOURS);
    [
        run(
            "days_7b_2T_64a100_mfu391",
            "7B on 2T tokens, 64 A100",
            llama2_7b,
            small(Kind::A100),
            mfu(llama2_7b, LLAMA2_7B_HOURS),
        ),
        run(
            "days_7b_1T_64a100_mfu437",
            "7B on 1T tokens, 64 A100",
            llama_7b,
            small(Kind::A100),
            mfu(llama_7b, LLAMA_7B_HOURS),
        ),
        run(
            "days_70b_2T_480a100_mfu428",
            "70B on 2T tokens, 480 A100",
            llama2_70b,
            large(Kind::A100),
            large_mfu,
        ),
        run(
            "days_70b_1p4T_480a100_mfu428",
            "70e9 on 1.4T tokens, 480 A100",
            chinchilla,
            large(Kind::A100),
            large_mfu,
        ),
        run(
            "days_7b_2T_64h100_mfu40",
            "7B on 2T tokens, 64 H100",
            llama2_7b,
            small(Kind::H100),
            USUAL_MFU,
        ),
        run(
            "days_70b_2T_480h100_mfu40",
            "70B on 2T tokens, 480 H100",
            llama2_70b,
            large(Kind::H100),
            USUAL_MFU,
        ),
        run(
            "days_70b_1p4T_480h100_mfu40",
            "70e9 on 1.4T tokens, 480 H100",
            chinchilla,
            large(Kind::H100),
            USUAL_MFU,
        ),
    ]
}

pub(super) fn claim() -> Result<Claim> {
    let (a100, h100) = (Gpu::find("a100")?, Gpu::find("h100")?);
    let (small, large) = (preset_config("llama-2-7b")?, preset_config("llama-2-70b")?);
    let gpus = |(_, tp, pp, copies): (f64, usize, usize, usize)| tp * pp * copies;
    for (config, (_, tp, pp, dp)) in [(&small, SMALL), (&large, LARGE)] {
        let layout = Layout { tp, pp, dp, ..Layout::single() };
        layout.check(config, &Machine { gpu: a100.clone(), count: layout.gpus() })?;
    }
    let per_gpu = |(params, tp, pp, _): (f64, usize, usize, usize)| params / (tp * pp) as f64;
    let states = per_gpu(SMALL) * Optimizer::AdamW.state_bytes().total();
    let (n7, n70) = (gpus(SMALL), gpus(LARGE));
    let mut figures: Vec<Figure> = vec![
        figure("params_per_gpu", "parameters per GPU of a unit", Unit::Count, per_gpu(SMALL)),
        figure("states_gb_per_gpu", "states per GPU at 16 bytes each", Unit::Gb, states / 1e9),
        figure("states_gib_per_gpu", "the same", Unit::Gib, gib(states)),
    ];
    for run in runs(&small, &large, a100.training_peak()?) {
        let (kind, count) = match run.on {
            On::Small(kind) => (kind, n7),
            On::Large(kind) => (kind, n70),
        };
        let gpu = match kind {
            Kind::A100 => &a100,
            Kind::H100 => &h100,
        };
        let what = format!("{} at {:.1} % MFU", run.what, 100.0 * run.mfu);
        figures.push(figure(run.key, what, Unit::Days, days(run.flops, gpu, count, run.mfu)?));
    }
    let same = per_gpu(SMALL) == per_gpu(LARGE);
    let verdict = match same {
        true => {
            "consistent: both units hold the same parameters per GPU, and heads, layers and \
                 vocabulary divide; whether the claim meant this reading is not known"
        }
        false => "inconsistent under this reading: the units hold different parameters per GPU",
    };
    Ok(Claim {
        id: "8x8_80x6",
        quote: "7B trained on units of 8 GPUs (8x8), 70B on 80x6",
        assumptions: vec![
            format!("8x8: tensor parallelism 8, 8 replicas: {n7} GPUs"),
            format!("80x6: tensor parallelism 8 × 10 pipeline stages, 6 replicas: {n70} GPUs"),
            "A100: the utilization that Meta's published GPU-hours give; H100: 40 %".to_owned(),
        ],
        inputs: Map::from_iter([
            ("gpus_7b".to_owned(), json!(n7)),
            ("gpus_70b".to_owned(), json!(n70)),
            ("params_7b".to_owned(), json!(small.parameters().total)),
            ("params_70b".to_owned(), json!(large.parameters().total)),
            ("a100_hours".to_owned(), json!([LLAMA_7B_HOURS, LLAMA2_7B_HOURS, LLAMA2_70B_HOURS])),
        ]),
        figures,
        verdict: verdict.to_owned(),
    })
}
