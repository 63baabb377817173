//! The answer for people.

mod machine;

use puna_config::{DecoderConfig, FfnConfig, HeadWeight};
use puna_laws::{
    Interval, LawName, Method, Plan, Recompute, Wish, short_count, short_power, side_by_side,
};

use super::answer::{Answer, Shape};
use super::numbers::whole;
use crate::output;
use crate::units::grouped;

/// The rule of thumb that every plan is compared with.
const RULE: f64 = 20.0;

pub(super) fn answer(answer: &Answer) -> String {
    let mut out = String::new();
    if let Some(plan) = &answer.plan {
        out.push_str(&headline(plan));
        out.push_str(&rows(&training(plan)));
        if let Some(serving) = serving(plan) {
            out.push_str(&serving);
        }
        out.push_str(&format!(
            "\nWhat the laws say{} (* this plan's)\n{}",
            question(plan),
            laws(plan)
        ));
    }
    match (&answer.shape, &answer.missing) {
        (Some(shape), _) => out.push_str(&describe(shape)),
        (None, Some(why)) => out.push_str(&format!(
            "\nNo shape: {why}; --vocab with a smaller vocabulary may give one\n"
        )),
        (None, None) => {}
    }
    out.push_str(&machine::describe(answer));
    out.trim_start().to_owned()
}

/// Names and values in two columns.
pub(super) fn rows(rows: &[(String, String)]) -> String {
    rows.iter().map(|(name, value)| format!("  {name:<18}{value}\n")).collect()
}

pub(super) fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn headline(plan: &Plan) -> String {
    let chosen = &plan.chosen;
    let (params, tokens) = (short_count(chosen.params), short_count(chosen.tokens));
    let training = format!("{params} parameters on {tokens} tokens");
    match (plan.wish, &plan.serving) {
        (Some(_), Some(serving)) => format!(
            "To train and then serve {} tokens most cheaply: {training}\n\n",
            short_count(serving.tokens)
        ),
        (Some(Wish::Flops), None) => {
            format!("For {} FLOP: {training}\n\n", short_power(chosen.flops))
        }
        (Some(Wish::Params), None) => {
            format!("For {params} parameters: {tokens} tokens\n\n")
        }
        (Some(Wish::Tokens), None) => {
            format!("For {tokens} tokens: {params} parameters\n\n")
        }
        (Some(Wish::Loss), None) => {
            format!("For a loss of {}: {training}\n\n", chosen.loss)
        }
        (None, _) => format!("{training}\n\n"),
    }
}

fn between(interval: Interval, print: impl Fn(f64) -> String) -> String {
    format!("80 % interval {} to {}", print(interval.low), print(interval.high))
}

fn training(plan: &Plan) -> Vec<(String, String)> {
    let chosen = &plan.chosen;
    let one = |value: f64| format!("{value:.1}");
    let intervals = plan.intervals.as_ref();
    // The intervals are those of the best size for the compute: of what was given there are none.
    let decided = plan.wish.is_some();
    let free = matches!(plan.wish, Some(Wish::Flops | Wish::Loss)) || plan.serving.is_some();
    let with = |value: String, between: Option<String>| match between.filter(|_| decided && free) {
        Some(between) => format!("{value:<10}{between}"),
        None => value,
    };
    let mut rows = vec![
        row("law", format!("{} ({})", plan.law, who(plan.law))),
        row("compute", format!("{} FLOP (6 N D)", short_power(chosen.flops))),
        row(
            "parameters N",
            with(short_count(chosen.params), intervals.map(|i| between(i.params, short_count))),
        ),
        row("tokens D", short_count(chosen.tokens)),
        row(
            "tokens per N",
            with(one(chosen.ratio()), intervals.map(|i| between(i.tokens_per_param, one))),
        ),
        row("against 20:1", rule(chosen.ratio())),
        row(
            "loss",
            format!(
                "{:.4}    nats per token, {}{}",
                chosen.loss,
                corpus(plan.law),
                intervals.map_or_else(String::new, |i| {
                    format!("; {}", between(i.loss, |v| format!("{v:.4}")))
                })
            ),
        ),
    ];
    if intervals.is_none() {
        rows.push(row("interval", "none: no bootstrap of this law's fit is published"));
    }
    if let Some(i) = intervals.filter(|_| decided && !free) {
        let best = format!(
            "best N for this compute, {}; tokens per N {} to {}",
            between(i.params, short_count),
            one(i.tokens_per_param.low),
            one(i.tokens_per_param.high)
        );
        rows.push(row("uncertainty", best));
    }
    if !decided {
        let best = &plan.optimum;
        rows.push(row(
            "optimum",
            format!(
                "the same compute would do best with {} on {}: loss {:.4}{}",
                short_count(best.params),
                short_count(best.tokens),
                best.loss,
                intervals.map_or_else(String::new, |i| {
                    format!("; N's {}", between(i.params, short_count))
                })
            ),
        ));
    }
    rows.extend(repetition(plan));
    rows
}

fn repetition(plan: &Plan) -> Vec<(String, String)> {
    let Some(repeated) = &plan.repeated else { return Vec::new() };
    let (epochs, unique) = (whole(repeated.epochs), short_count(repeated.unique_tokens));
    let worth = short_count(repeated.effective_tokens);
    vec![
        row(
            "repetition",
            format!(
                "{unique} different tokens, each seen {epochs} times: worth {worth} fresh ones"
            ),
        ),
        row("", format!("loss {:.4} if all tokens were different", repeated.loss_if_fresh)),
    ]
}

fn rule(ratio: f64) -> String {
    let percent = 100.0 * (ratio / RULE - 1.0);
    match percent {
        p if p.abs() < 0.5 => "as the rule of 20 tokens per parameter".to_owned(),
        p if ratio >= 2.0 * RULE => {
            format!("{:.1} times the rule's 20 tokens per parameter ({p:+.0} %)", ratio / RULE)
        }
        p => format!("{p:+.0} % of the rule's 20 tokens per parameter"),
    }
}

fn serving(plan: &Plan) -> Option<String> {
    let serving = plan.serving.as_ref()?;
    let (base, best) = (&serving.base, &serving.optimum);
    let mut lines = vec![
        row(
            "training alone",
            format!(
                "{} on {} would be cheapest for this loss: {} FLOP, {} with serving",
                short_count(base.params),
                short_count(base.tokens),
                short_power(base.flops),
                short_power(serving.total_flops(base)),
            ),
        ),
        row(
            "with serving",
            format!(
                "{} on {}: {} FLOP, {} with serving ({:.1} % less)",
                short_count(best.params),
                short_count(best.tokens),
                short_power(best.flops),
                short_power(serving.total_flops(best)),
                100.0 * serving.saving(),
            ),
        ),
    ];
    if let Some(tokens) = serving.break_even().filter(|tokens| *tokens > 0.0) {
        lines.push(row("pays from", format!("{} served tokens on", short_count(tokens))));
    }
    Some(format!("\nServing\n{}", rows(&lines)))
}

/// To which question the laws answer.
fn question(plan: &Plan) -> String {
    let base = plan.serving.map_or(plan.chosen, |serving| serving.base);
    match plan.wish {
        Some(Wish::Params) => format!(" for {} parameters", short_count(base.params)),
        Some(Wish::Tokens) => format!(" for {} tokens", short_count(base.tokens)),
        Some(Wish::Loss) => {
            format!(" for a loss of {:.4} (each on its own data: not comparable)", base.loss)
        }
        Some(Wish::Flops) | None => format!(" for {} FLOP", short_power(base.flops)),
    }
}

fn laws(plan: &Plan) -> String {
    let head = ["", "N", "D", "D/N", "FLOP", "loss"].map(str::to_owned).to_vec();
    let mut table = vec![head];
    for said in side_by_side(plan) {
        let repeats = said.who.starts_with("the same");
        let own = said.law == plan.law.name() && plan.serving.is_none();
        let mark = if own && repeats == plan.repeated.is_some() { " *" } else { "" };
        table.push(vec![
            format!("{}{mark}", said.who),
            short_count(said.params),
            short_count(said.tokens),
            ratio(said.tokens / said.params),
            short_power(said.flops),
            said.loss.map_or_else(|| "-".to_owned(), |loss| format!("{loss:.3}")),
        ]);
    }
    indented(&output::table(&table))
}

fn ratio(ratio: f64) -> String {
    match ratio {
        r if r < 0.01 => format!("{r:.0e}"),
        r if r < 1.0 => format!("{r:.2}"),
        r => format!("{r:.1}"),
    }
}

pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn describe(shape: &Shape) -> String {
    let (config, counts) = (&shape.config, shape.config.parameters());
    let a = &config.attention;
    let kv = match a.num_kv_heads == a.num_heads {
        true => String::new(),
        false => format!(" ({} for keys and values)", a.num_kv_heads),
    };
    let title = match &shape.name {
        Some(name) => format!("\nThe model {name}\n"),
        None => "\nA LLaMA shape of that size\n".to_owned(),
    };
    let off = 100.0 * (counts.total as f64 / shape.wanted - 1.0);
    let off = if shape.name.is_some() { String::new() } else { format!(" ({off:+.1} %)") };
    let active = match counts.active == counts.total {
        true => String::new(),
        false => format!(", {} of them per token", grouped(counts.active)),
    };
    let tied = if tied(config) { ", one matrix for embedding and head" } else { "" };
    title
        + &rows(&[
            row("parameters", format!("{}{off}{active}", grouped(counts.total))),
            row("layers", format!("{} of hidden size {}", config.num_layers, config.hidden_size)),
            row("heads", format!("{} of {}{kv}", a.num_heads, a.head_dim)),
            row("feed-forward", ffn_size(config).to_string()),
            row("vocabulary", format!("{}{tied}", grouped(config.vocab_size as u64))),
        ])
}

/// Whose law it is.
fn who(law: LawName) -> &'static str {
    match law {
        LawName::Hoffmann2022Rounded => "Hoffmann et al. 2022, rounded as printed",
        LawName::Hoffmann2022Tex => "Hoffmann et al. 2022, approach 3",
        LawName::Besiroglu2024 => "Besiroglu et al. 2024, a refit of Chinchilla's runs",
        LawName::HuberExactEpoch240 => "the exact minimum on Besiroglu's points",
        LawName::DeVries2023Sardana2024 => "de Vries 2023, Sardana et al. 2024",
        LawName::Muennighoff2023C4 => "Muennighoff et al. 2023, repeated data",
    }
}

/// On what a law's loss is measured: it says nothing of other text or tokenizers.
pub(super) fn corpus(law: LawName) -> &'static str {
    match law {
        LawName::Muennighoff2023C4 => "C4",
        _ => "MassiveText, 32k SentencePiece",
    }
}

pub(super) fn method(method: Method) -> &'static str {
    match method {
        Method::Full => "full",
        Method::Lora => "lora",
        Method::Qlora => "qlora",
        Method::Inference => "inference",
    }
}

pub(super) fn recompute(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::Nothing => "nothing",
        Recompute::Selective => "selective",
        Recompute::Full => "full",
    }
}

pub(super) fn ffn_size(config: &DecoderConfig) -> usize {
    match config.ffn {
        FfnConfig::Dense { ffn_size, .. } | FfnConfig::Moe { ffn_size, .. } => ffn_size,
    }
}

pub(super) fn tied(config: &DecoderConfig) -> bool {
    config.embedding.head == HeadWeight::Tied
}
