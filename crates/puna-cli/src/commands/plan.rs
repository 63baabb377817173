//! `puna plan`: size, tokens, memory, layout, time and cost of a training, before it is paid for.

mod answer;
mod arguments;
mod json;
mod machine;
mod numbers;
mod text;
mod why;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Parser;
use puna_config::preset_names;
use puna_laws::{LawError, Method, Plan, Question};
use serde_json::Value;

use crate::report::{Hint, Outcome};
use crate::{output, threads};
use answer::Answer;
use arguments::{MachineArgs, ModelArgs, RuleArgs, SettingArgs, WishArgs};

/// Plans a training, or says whether a model fits a machine.
///
/// Give what is known: a budget (--flops, or --gpu with --gpus and --days, or --budget with
/// --price), a size (--params or --model), tokens, or a loss. One of them leaves the scaling law to
/// decide the rest; two decide everything.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    puna plan --flops 5.76e23                       the best model for a budget\n  \
    puna plan --gpu h100 --gpus 8 --days 7          the same, for a week on a node\n  \
    puna plan --budget 50000 --price 2.50 --gpu h100   the same, for money\n  \
    puna plan --params 7B --serve-tokens 1T         a smaller model is cheaper to serve\n  \
    puna plan --flops 1e20 --unique-tokens 100M     when text is scarce\n  \
    puna plan --params 13B --seq 4096 --gpus 8 --gpu a100-40   does it fit?\n  \
    puna plan --params 8B --method qlora --gpu 4090 does fine-tuning fit?\n  \
    puna plan --model llama-3.1-8b --method inference --precision q4_0 --gpu 3060\n  \
    puna plan --machine recipes/pretrain-5m.toml    speed and memory of a recipe on this computer\n  \
    puna plan --why                                 rules of thumb, computed before your eyes\n\n\
    Numbers may be written 70B, 1.4T, 100M or 5.76e23. With --gpus, the exit code is 1 if the model \
    does not fit.")]
pub(crate) struct Args {
    #[command(flatten)]
    wish: WishArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    setting: SettingArgs,
    #[command(flatten)]
    rules: RuleArgs,
    /// Compute six well-known claims about sizes and machines, with their assumptions
    #[arg(long)]
    why: bool,
    /// Measure this computer and, with a recipe of `puna train`, predict tokens/s, hours and memory of
    /// its run; after the run, the prediction beside the outcome
    #[arg(long = "machine", value_name = "RECIPE", num_args = 0..=1, conflicts_with = "why")]
    this_machine: Option<Option<PathBuf>>,
    /// --machine: change a setting of the recipe: section.key=value
    #[arg(long, value_name = "KEY=VALUE", requires = "this_machine")]
    set: Vec<String>,
    /// --machine: threads [default: physical cores]
    #[arg(short = 't', long, value_name = "N", requires = "this_machine")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<Outcome> {
    if let Some(recipe) = &args.this_machine {
        threads::start(args.threads);
        return machine::run(recipe.as_deref(), &args.set, args.json);
    }
    if args.why {
        return why::run(args.json);
    }
    let answer = match answer(args) {
        Ok(answer) => answer,
        Err(error) => {
            return match advice(&error) {
                Some(hint) => Err(error).hint(hint),
                None => Err(error),
            };
        }
    };
    if args.json {
        output::json(&json::answer(&answer))?;
    } else {
        output::text(&text::answer(&answer))?;
    }
    if let Some(longest) = answer.longest.filter(|longest| answer.setting.seq > *longest) {
        let seq = answer.setting.seq;
        output::note(&format!(
            "warning: sequences of {seq} tokens; the model is made for {longest}"
        ));
    }
    let warnings = answer.plan.iter().flat_map(|plan| &plan.warnings);
    for warning in warnings {
        output::note(&format!("warning: {warning}"));
    }
    let asked_whether_it_fits = answer.machine_given;
    let fits = answer.placed.as_ref().is_none_or(|placed| placed.fits);
    Ok(if fits || !asked_whether_it_fits { Outcome::Done } else { Outcome::No })
}

/// A plan asked for by the web page: the options of `puna plan` by their names, without those that
/// read files or measure.
pub(crate) fn answer_for_page(asked: &BTreeMap<String, String>) -> Result<Value, String> {
    const KNOWN: [&str; 22] = [
        "flops",
        "params",
        "tokens",
        "loss",
        "serve-tokens",
        "unique-tokens",
        "model",
        "vocab",
        "gpu",
        "gpus",
        "days",
        "hours",
        "budget",
        "price",
        "mfu",
        "method",
        "precision",
        "seq",
        "micro-batch",
        "batch-tokens",
        "law",
        "extrapolate",
    ];
    #[derive(clap::Parser)]
    #[command(no_binary_name = true)]
    struct Asked {
        #[command(flatten)]
        args: Args,
    }
    let mut typed = Vec::new();
    for (name, value) in asked {
        let name = name.replace('_', "-");
        if !KNOWN.contains(&name.as_str()) {
            let shown: String = name.chars().take(50).collect();
            return Err(format!(
                "{shown}: there is no such option; there are {}",
                KNOWN.join(", ")
            ));
        }
        match name.as_str() {
            "extrapolate" if value == "true" => typed.push("--extrapolate".to_owned()),
            "extrapolate" => return Err("extrapolate: expected true".to_owned()),
            "model" if !preset_names().unwrap_or_default().contains(value) => {
                return Err(format!(
                    "model: {} are known",
                    preset_names().unwrap_or_default().join(", ")
                ));
            }
            _ => typed.push(format!("--{name}={value}")),
        }
    }
    let Asked { args } = Asked::try_parse_from(typed).map_err(|error| {
        // Its first line says what is wrong; the others are about a terminal.
        let text = error.to_string();
        text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })?;
    match answer(&args) {
        Ok(answer) => Ok(json::answer(&answer)),
        Err(error) => Err(match advice(&error) {
            Some(hint) => format!("{error:#}; {}", hint.replace("--", "")),
            None => format!("{error:#}"),
        }),
    }
}

fn answer(args: &Args) -> anyhow::Result<Answer> {
    let given = args.model.given()?;
    let resources = args.machine.resources()?;
    let question = Question { params: given.params(), ..args.wish.question() };
    let method = args.setting.method();
    if method != Method::Full {
        refuse_law_options(args, &question)?;
        return Answer::without_law(&question, given, resources, &args.setting);
    }
    let wished = [question.flops, question.params, question.tokens, question.loss]
        .iter()
        .any(Option::is_some);
    let flops = match (question.flops, resources.flops(wished)?) {
        (Some(_), Some(_)) => {
            return Err(anyhow!("--flops and GPU time or money cannot both be given"))
                .hint("both are budgets: leave out --flops, or --days, --hours and --budget");
        }
        (flops, other) => flops.or(other),
    };
    let plan = Plan::of(&Question { flops, ..question }, &args.rules.choice());
    Answer::with_law(plan?, given, resources, &args.setting)
}

/// What to type instead, by the kind of the error.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    Some(match error.downcast_ref::<LawError>()? {
        LawError::NothingAsked => {
            "give --flops, --params, --tokens or --loss, or --gpu, --gpus and --days; \
             `puna plan --help` has examples"
        }
        LawError::BeyondData { .. } => "add --extrapolate to use the law there all the same",
        LawError::RoundedLaw { .. } => {
            "use --law hoffmann2022_tex, or --force to see what the rounded constants say"
        }
        LawError::Unreachable { .. } => {
            "ask for a higher loss, or for a larger model on more tokens"
        }
        LawError::TwoWishes { .. } | LawError::Disagree { .. } => "leave one of them out",
        LawError::DoesNotDivide { .. }
        | LawError::BeyondDomain { .. }
        | LawError::OtherGpuCount { .. } => {
            "leave out --tp, --pp or --dp to have a layout searched for, or change --gpus"
        }
        LawError::NoPeak { .. } => "choose another --gpu for the time",
        _ => return None,
    })
}

/// A law of pretraining says nothing about adapters or serving: its options are not ignored.
fn refuse_law_options(args: &Args, question: &Question) -> anyhow::Result<()> {
    let given = [
        ("--flops", question.flops.is_some()),
        ("--loss", question.loss.is_some()),
        ("--serve-tokens", question.serve_tokens.is_some()),
        ("--unique-tokens", question.unique_tokens.is_some()),
        ("--law", args.rules.law.is_some()),
        ("--days, --hours or --budget", args.machine.has_budget()),
    ];
    if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
        return Err(anyhow!("{option} is about training all parameters from scratch"))
            .hint("leave it out, or plan with --method full");
    }
    if question.params.is_none() {
        return Err(anyhow!("which model? this method starts from a trained one"))
            .hint("add --params 8B, or --model llama-3.1-8b or --model config.json");
    }
    Ok(())
}
