//! The same wish, answered by every law.

use super::{Plan, Wish};
use crate::law::{Allocation, LawName, ParametricLaw, TRAIN_FLOPS};
use crate::power_law::{FrontierLaw, PowerLawName};
use crate::repeated::RepeatedData;

/// One law's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    /// The law's name.
    pub law: &'static str,
    /// Who says so, in words.
    pub who: &'static str,
    /// Operations.
    pub flops: f64,
    /// Parameters.
    pub params: f64,
    /// Tokens.
    pub tokens: f64,
    /// Nats per token, where the law says something of it.
    pub loss: Option<f64>,
}

/// Twenty tokens per parameter.
const RULE: f64 = 20.0;

/// What all laws say to the wish of a plan; to two wishes, what they would do with its operations.
///
/// Laws that know no loss are left out where a loss was wished. The rounded constants are not asked.
#[must_use]
pub fn side_by_side(plan: &Plan) -> Vec<Said> {
    let base = plan.serving.map_or(plan.chosen, |serving| serving.base);
    let wish = plan.wish.unwrap_or(Wish::Flops);
    let mut all: Vec<Said> = Vec::new();
    all.extend(by_rule(wish, &base));
    let power = [
        (PowerLawName::HoffmannApproach1, "Hoffmann et al., approach 1"),
        (PowerLawName::HoffmannApproach2, "Hoffmann et al., approach 2"),
    ];
    all.extend(power.iter().filter_map(|(name, who)| by_power(wish, &base, *name, who)));
    let parametric = [
        (LawName::Hoffmann2022Tex, "Hoffmann et al., approach 3"),
        (LawName::Besiroglu2024, "Besiroglu et al., refit of approach 3"),
        (LawName::DeVries2023Sardana2024, "de Vries, Sardana et al."),
        (LawName::Muennighoff2023C4, "Muennighoff et al., C4, fresh data"),
    ];
    all.extend(parametric.iter().filter_map(|(name, who)| by_law(wish, &base, *name, who)));
    let power = [
        (PowerLawName::Llama3, "Llama 3"),
        (PowerLawName::Kaplan2020, "Kaplan et al., N without embeddings"),
    ];
    all.extend(power.iter().filter_map(|(name, who)| by_power(wish, &base, *name, who)));
    all.extend(limited(plan, wish));
    all.extend(plan.serving.map(|serving| {
        let what = "with serving (Sardana et al.'s condition)";
        said(plan.law.name(), what, &serving.optimum, Some(serving.optimum.loss))
    }));
    all
}

fn said(law: &'static str, who: &'static str, a: &Allocation, loss: Option<f64>) -> Said {
    Said { law, who, flops: a.flops, params: a.params, tokens: a.tokens, loss }
}

fn by_rule(wish: Wish, base: &Allocation) -> Option<Said> {
    let params = match wish {
        Wish::Flops => (base.flops / (TRAIN_FLOPS * RULE)).sqrt(),
        Wish::Params => base.params,
        Wish::Tokens => base.tokens / RULE,
        Wish::Loss => return None,
    };
    let tokens = RULE * params;
    let flops = TRAIN_FLOPS * params * tokens;
    Some(Said { law: "rule20", who: "rule: 20 tokens each", flops, params, tokens, loss: None })
}

fn by_law(wish: Wish, base: &Allocation, name: LawName, who: &'static str) -> Option<Said> {
    let law: ParametricLaw = name.parametric();
    let answer = match wish {
        Wish::Flops => law.for_flops(base.flops),
        Wish::Params => law.for_params(base.params),
        Wish::Tokens => law.for_tokens(base.tokens),
        Wish::Loss => law.for_loss(base.loss)?,
    };
    Some(said(name.name(), who, &answer, Some(answer.loss)))
}

fn by_power(wish: Wish, base: &Allocation, name: PowerLawName, who: &'static str) -> Option<Said> {
    let law: FrontierLaw = name.frontier();
    let flops = match wish {
        Wish::Flops => base.flops,
        Wish::Params => law.flops_for_params(base.params),
        Wish::Tokens => law.flops_for_tokens(base.tokens),
        Wish::Loss => return None,
    };
    let (params, tokens) = (law.params_for_flops(flops), law.tokens_for_flops(flops));
    Some(Said { law: name.name(), who, flops, params, tokens, loss: None })
}

/// Limited data at the plan's operations.
fn limited(plan: &Plan, wish: Wish) -> Option<Said> {
    let unique = plan.repeated?.unique_tokens;
    let data = RepeatedData { law: plan.law.parametric(), ..RepeatedData::default() };
    let flops = match wish {
        Wish::Flops => plan.chosen.flops,
        _ => return None,
    };
    let best = data.for_flops(flops, unique);
    let who = "the same, repeating the unique tokens";
    let (params, tokens) = (best.params, best.tokens);
    Some(Said { law: plan.law.name(), who, flops, params, tokens, loss: Some(best.loss) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Choice, Question};

    fn row<'a>(rows: &'a [Said], law: &str) -> &'a Said {
        rows.iter().find(|row| row.law == law).unwrap()
    }

    #[test]
    fn tokens_for_70b_are_a_matter_of_opinion() {
        let question = Question { params: Some(70e9), ..Question::default() };
        let rows = side_by_side(&Plan::of(&question, &Choice::default()).unwrap());
        let expected = [
            ("rule20", 1.4e12),
            ("hoffmann2022_approach1", 1.46e12),
            ("hoffmann2022_approach2", 1.68e12),
            ("besiroglu2024", 1.29e12),
            ("hoffmann2022_tex", 4.58e12),
        ];
        for (law, tokens) in expected {
            let got = row(&rows, law).tokens;
            assert!((got / tokens - 1.0).abs() < 5e-3, "{law}: {got:e}");
        }
    }

    #[test]
    fn only_laws_of_loss_answer_a_wish_for_a_loss() {
        let question = Question { loss: Some(2.2), ..Question::default() };
        let rows = side_by_side(&Plan::of(&question, &Choice::default()).unwrap());
        assert!(rows.iter().all(|row| row.loss.is_some_and(|loss| (loss - 2.2).abs() < 1e-9)));
    }
}
