//! What the fitted law says of other budgets, and how far from its points that is.

use anyhow::anyhow;
use puna_laws::{Allocation, Interval, Level, TRAIN_FLOPS, parse_count};

use super::{Args, Results};
use crate::output;
use crate::report::Hint;

/// Decades from the table's budgets that need --extrapolate.
const FAR: f64 = 3.0;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Question {
    /// The best for a budget.
    Flops(f64),
    /// A size and a number of tokens.
    Run(f64, f64),
}

impl Question {
    fn flops(self) -> f64 {
        match self {
            Self::Flops(flops) => flops,
            Self::Run(params, tokens) => TRAIN_FLOPS * params * tokens,
        }
    }
}

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Approach {
    Parabolas,
    Law,
}

/// An answer; intervals hold 80 % of the resamples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prediction {
    pub(super) question: Question,
    pub(super) approach: Approach,
    pub(super) allocation: Allocation,
    pub(super) loss: Option<Interval>,
    pub(super) params: Option<Interval>,
    pub(super) ratio: Option<Interval>,
    /// Above 0: beyond the largest budget; below 0: under the least.
    pub(super) decades: f64,
}

/// Reads what is asked.
pub(super) fn questions(args: &Args) -> anyhow::Result<Vec<Question>> {
    let mut questions: Vec<_> = args.predict_flops.iter().copied().map(Question::Flops).collect();
    for text in &args.predict {
        let numbers: Vec<f64> = text.split(',').map_while(|part| parse_count(part).ok()).collect();
        match numbers[..] {
            [params, tokens] if text.matches(',').count() == 1 => {
                questions.push(Question::Run(params, tokens));
            }
            _ => {
                return Err(anyhow!("--predict: {text:?} is not a size and a number of tokens"))
                    .hint(
                        "as in --predict 1B,20B or 1e9,20e9: two positive numbers, a comma between",
                    );
            }
        }
    }
    Ok(questions)
}

/// Answers, unless a question is too far away.
pub(super) fn answers(
    args: &Args,
    results: &Results,
    questions: &[Question],
) -> anyhow::Result<Vec<Prediction>> {
    let Some(parametric) = &results.parametric else {
        return Ok(Vec::new());
    };
    let (law, ensemble) = (&parametric.fit.law, parametric.ensemble.as_ref());
    let budgets = results.points.iter().map(|point| point.flops());
    let (least, largest) =
        budgets.fold((f64::INFINITY, 0.0_f64), |(low, high), c| (low.min(c), high.max(c)));
    let mut answers = Vec::new();
    let level = Level::Percent80;
    for &question in questions {
        let flops = question.flops();
        let decades = (flops / largest).log10().max(0.0) + (flops / least).log10().min(0.0);
        if decades.abs() > FAR && !args.extrapolate {
            return Err(anyhow!(
                "{flops:.3e} FLOP is {:.1} decades {} of the table's budgets ({least:.3e} to \
                 {largest:.3e}), and a law says little beyond {FAR}",
                decades.abs(),
                side(decades)
            ))
            .hint("--extrapolate predicts all the same");
        }
        if decades != 0.0 {
            output::note(&format!(
                "warning: {flops:.3e} FLOP is {:.1} decades {} of the table's budgets: extrapolated",
                decades.abs(),
                side(decades)
            ));
        }
        let approach = Approach::Law;
        match question {
            Question::Flops(flops) => {
                answers.push(Prediction {
                    question,
                    approach,
                    allocation: law.for_flops(flops),
                    loss: ensemble.map(|all| all.loss_for_flops(flops, level)),
                    params: ensemble.map(|all| all.params_for_flops(flops, level)),
                    ratio: ensemble.map(|all| all.ratio_for_flops(flops, level)),
                    decades,
                });
                answers.extend(by_parabolas(results, flops, decades));
            }
            Question::Run(params, tokens) => answers.push(Prediction {
                question,
                approach,
                allocation: Allocation { flops, params, tokens, loss: law.loss(params, tokens) },
                loss: ensemble.map(|all| all.loss(params, tokens, level)),
                params: None,
                ratio: None,
                decades,
            }),
        }
    }
    Ok(answers)
}

/// The best for a budget by the parabolas; `None` without a law of their lowest losses.
fn by_parabolas(results: &Results, flops: f64, decades: f64) -> Option<Prediction> {
    let (_, found, ensemble) = results.parabolas.as_ref()?;
    let loss = found.loss?.at(flops);
    let (params, tokens) = (found.law.params_for_flops(flops), found.law.tokens_for_flops(flops));
    let level = Level::Percent80;
    let all = ensemble.as_ref();
    Some(Prediction {
        question: Question::Flops(flops),
        approach: Approach::Parabolas,
        allocation: Allocation { flops, params, tokens, loss },
        loss: all.and_then(|all| all.loss_for_flops(flops, level)),
        params: all.map(|all| all.interval(level, |law| law.params_for_flops(flops))),
        ratio: all.map(|all| {
            all.interval(level, |law| law.tokens_for_flops(flops) / law.params_for_flops(flops))
        }),
        decades,
    })
}

/// On which side of the table's budgets.
fn side(decades: f64) -> &'static str {
    if decades > 0.0 { "beyond the largest" } else { "under the least" }
}
