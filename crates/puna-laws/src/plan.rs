//! From what is wished (a budget, a size, tokens, a loss) to one training: its size, its tokens and
//! the loss to expect, beside what the other laws say.
//!
//! Two of the four wishes decide a training, one leaves the law to decide, and more than they can
//! bear is an error, never silently dropped.

mod compare;
mod decide;
mod resources;
mod serving;
mod setting;
mod warning;

pub use compare::{Said, side_by_side};
pub use resources::Resources;
pub use serving::Serving;
pub(crate) use serving::break_even;
pub use setting::{Method, Overview, Setting, overview};
pub use warning::{MANY_TOKENS, Warning};

use crate::ensemble::{Ensemble, Interval, Level};
use crate::error::{LawError, Result};
use crate::law::{Allocation, LawName, ParametricLaw};
use crate::repeated::RepeatedData;
use decide::{Limited, decide};

/// Least and most FLOP of Chinchilla's runs, on which the laws were fitted.
pub const DATA_FLOPS: (f64, f64) = (1.4e18, 1.3e22);
/// Factor beyond either end within which a law is used without being asked twice.
const DECADES: f64 = 1e3;

/// What is wished. All numbers are positive.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Question {
    /// Training operations.
    pub flops: Option<f64>,
    /// Parameters.
    pub params: Option<f64>,
    /// Tokens of training.
    pub tokens: Option<f64>,
    /// Nats per token.
    pub loss: Option<f64>,
    /// Tokens that the model will read and write in service.
    pub serve_tokens: Option<f64>,
    /// Different tokens that there are; more are repetitions.
    pub unique_tokens: Option<f64>,
}

/// Whether a guard is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Errors where one is misled easily.
    #[default]
    Up,
    /// Asked for in spite of it.
    Down,
}

/// Which law, and what is allowed with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// The law; without one, Besiroglu's refit, or Muennighoff's for limited data.
    pub law: Option<LawName>,
    /// Against budgets more than three decades from the data.
    pub extrapolation: Guard,
    /// Against the rounded constants.
    pub rounding: Guard,
}

/// The one wish from which a law made a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A budget.
    Flops,
    /// A size.
    Params,
    /// Tokens.
    Tokens,
    /// A loss.
    Loss,
}

/// A plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Whose constants.
    pub law: LawName,
    /// What decided; `None` if two wishes left nothing to decide.
    pub wish: Option<Wish>,
    /// The training.
    pub chosen: Allocation,
    /// The law's optimum at the same operations.
    pub optimum: Allocation,
    /// How uncertain the law's answer is, where its bootstrap is published.
    pub intervals: Option<Intervals>,
    /// What serving changes, if it was asked for.
    pub serving: Option<Serving>,
    /// Different tokens, and what is made of them.
    pub repeated: Option<Repeated>,
    /// What a reader should know before believing it.
    pub warnings: Vec<Warning>,
}

/// 80 % intervals of a plan, from a bootstrap of the law's data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Intervals {
    /// Of the best size at the plan's operations.
    pub params: Interval,
    /// Of its tokens per parameter.
    pub tokens_per_param: Interval,
    /// Of the chosen training's loss.
    pub loss: Interval,
}

/// Training on limited data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Repeated {
    /// Different tokens.
    pub unique_tokens: f64,
    /// How often each is seen.
    pub epochs: f64,
    /// Fresh tokens that all of them are worth.
    pub effective_tokens: f64,
    /// Parameters that the size is worth with so few tokens.
    pub effective_params: f64,
    /// Loss if all tokens were different.
    pub loss_if_fresh: f64,
}

impl LawName {
    /// The law of a choice.
    ///
    /// # Errors
    /// [`LawError::RoundedLaw`] for the rounded constants unless their guard is down.
    pub fn chosen(choice: &Choice, question: &Question) -> Result<Self> {
        let usual = match question.unique_tokens {
            Some(_) => Self::Muennighoff2023C4,
            None => Self::default(),
        };
        let law = choice.law.unwrap_or(usual);
        if law == Self::Hoffmann2022Rounded && choice.rounding == Guard::Up {
            const GOPHER: f64 = 5.76e23;
            return Err(LawError::RoundedLaw {
                rounded: law.parametric().for_flops(GOPHER).ratio(),
                exact: Self::Hoffmann2022Tex.parametric().for_flops(GOPHER).ratio(),
            });
        }
        Ok(law)
    }
}

impl Plan {
    /// Answers a question.
    ///
    /// # Errors
    /// [`LawError::NothingAsked`], [`LawError::TwoWishes`] and [`LawError::Disagree`] for wishes
    /// that are none or too many; [`LawError::Unreachable`] for a loss that no training reaches;
    /// [`LawError::BeyondData`] far from the data unless its guard is down.
    pub fn of(question: &Question, choice: &Choice) -> Result<Self> {
        let name = LawName::chosen(choice, question)?;
        let law = name.parametric();
        let repeated = question.unique_tokens.map(|unique| Limited {
            data: RepeatedData { law, ..RepeatedData::default() },
            unique,
        });
        let (wish, base) = decide(question, &law, repeated.as_ref())?;
        let serving = match question.serve_tokens {
            Some(tokens) => Some(Serving::of(&law, repeated.as_ref(), base, tokens)?),
            None => None,
        };
        // Where two wishes fixed everything, serving is reported and changes nothing.
        let chosen = match (&serving, wish) {
            (Some(serving), Some(_)) => serving.optimum,
            _ => base,
        };
        guard(chosen.flops, choice)?;
        let optimum = match &repeated {
            Some(limited) => limited.for_flops(chosen.flops),
            None => law.for_flops(chosen.flops),
        };
        let intervals = match &repeated {
            None => Intervals::of(name, wish, &chosen, serving.as_ref()),
            Some(_) => None,
        };
        let repeated = repeated.map(|limited| limited.describe(&chosen));
        let warnings = warning::of(&chosen, name, repeated.as_ref());
        Ok(Self { law: name, wish, chosen, optimum, intervals, serving, repeated, warnings })
    }
}

impl Intervals {
    /// Only the default law has a published bootstrap.
    fn of(
        law: LawName,
        wish: Option<Wish>,
        chosen: &Allocation,
        serving: Option<&Serving>,
    ) -> Option<Self> {
        if law != LawName::Besiroglu2024 {
            return None;
        }
        let all = Ensemble::published();
        let level = Level::Percent80;
        let best = |law: &ParametricLaw| match serving {
            Some(serving) if wish.is_some() => {
                law.for_serving(law.for_flops(serving.base.flops), serving.tokens)
            }
            _ => law.for_flops(chosen.flops),
        };
        Some(Self {
            params: all.interval(level, |law| best(law).params),
            tokens_per_param: all.interval(level, |law| best(law).ratio()),
            loss: match (wish, serving) {
                (Some(_), None) => all.loss_for_flops(chosen.flops, level),
                _ => all.loss(chosen.params, chosen.tokens, level),
            },
        })
    }
}

fn guard(flops: f64, choice: &Choice) -> Result<()> {
    let (least, most) = DATA_FLOPS;
    let near = (least / DECADES..=most * DECADES).contains(&flops);
    if near || choice.extrapolation == Guard::Down {
        return Ok(());
    }
    Err(LawError::BeyondData { flops })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(question: Question) -> Result<Plan> {
        Plan::of(&question, &Choice::default())
    }

    #[test]
    fn each_wish_alone_is_answered_by_the_law() {
        let by = |question| plan(question).unwrap().chosen;
        let chosen = by(Question { flops: Some(5.76e23), ..Question::default() });
        assert!((chosen.params / 7.22487e10 - 1.0).abs() < 1e-5);
        let chosen = by(Question { params: Some(70e9), ..Question::default() });
        assert!((chosen.tokens / 1.28939e12 - 1.0).abs() < 1e-5);
        let chosen = by(Question { tokens: Some(1.4e12), ..Question::default() });
        assert!((chosen.params / 7.63293e10 - 1.0).abs() < 1e-5);
        let chosen = by(Question { loss: Some(2.2), ..Question::default() });
        assert!((chosen.flops / 3.91824e21 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn two_wishes_decide_and_three_must_agree() {
        let (params, tokens) = (Some(70e9), Some(1.4e12));
        let fixed = plan(Question { params, tokens, ..Question::default() }).unwrap();
        assert_eq!(fixed.wish, None);
        assert!((fixed.chosen.loss - 1.973882).abs() < 1e-6);
        let agreeing = Question { flops: Some(5.88e23), params, tokens, ..Question::default() };
        assert_eq!(plan(agreeing).unwrap().chosen, fixed.chosen);
        let other = Question { flops: Some(5.76e24), ..agreeing };
        let error = plan(other).unwrap_err().to_string();
        assert!(error.contains("5.8800e23") && error.contains("5.7600e24"), "{error}");
        let loss = Question { loss: Some(2.0), params, tokens, ..Question::default() };
        assert!(matches!(plan(loss), Err(LawError::TwoWishes { .. })));
        assert!(matches!(plan(Question::default()), Err(LawError::NothingAsked)));
    }

    #[test]
    fn a_loss_that_no_training_reaches_says_what_the_limit_is() {
        let seven = Question { params: Some(7e9), loss: Some(1.9739), ..Question::default() };
        let error = plan(seven).unwrap_err().to_string();
        assert!(error.contains("any number of tokens"), "{error}");
        let few = Question { tokens: Some(1e9), loss: Some(2.0), ..Question::default() };
        assert!(plan(few).is_err());
        let none = Question { loss: Some(1.7), ..Question::default() };
        assert!(plan(none).unwrap_err().to_string().contains("1.8172"));
        // What tokens and parameters give each other is the same.
        let law = LawName::default().parametric();
        let params = law.params_for_loss(1.4e12, law.loss(70e9, 1.4e12)).unwrap();
        assert!((params / 70e9 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn far_from_the_data_and_with_rounded_constants_one_must_ask_twice() {
        let far = Question { flops: Some(1.4e25), ..Question::default() };
        assert!(matches!(plan(far), Err(LawError::BeyondData { .. })));
        let down = Choice { extrapolation: Guard::Down, ..Choice::default() };
        assert!(Plan::of(&far, &down).is_ok());
        let near = Question { flops: Some(1.2e25), ..Question::default() };
        assert!(plan(near).is_ok());
        let rounded = Choice { law: Some(LawName::Hoffmann2022Rounded), ..Choice::default() };
        let error = Plan::of(&near, &rounded).unwrap_err().to_string();
        assert!(error.contains("92.65") && error.contains("58.9"), "{error}");
        assert!(Plan::of(&near, &Choice { rounding: Guard::Down, ..rounded }).is_ok());
    }

    #[test]
    fn a_plan_says_how_uncertain_it_is() {
        let question = Question { flops: Some(5.76e23), ..Question::default() };
        let intervals = plan(question).unwrap().intervals.unwrap();
        // The recorded percentiles are another bootstrap's of the same points.
        for (got, low, high) in [
            (intervals.params, 5.75e10, 9.86e10),
            (intervals.tokens_per_param, 9.9, 29.0),
            (intervals.loss, 1.9578, 1.9909),
        ] {
            assert!((got.low / low - 1.0).abs() < 0.05, "{got:?} {low}");
            assert!((got.high / high - 1.0).abs() < 0.05, "{got:?} {high}");
        }
        let other = Choice { law: Some(LawName::Hoffmann2022Tex), ..Choice::default() };
        assert_eq!(Plan::of(&question, &other).unwrap().intervals, None);
    }

    #[test]
    fn limited_data_moves_the_optimum_and_the_loss() {
        let question = |unique| Question {
            flops: Some(1e20),
            unique_tokens: Some(unique),
            ..Question::default()
        };
        let scarce = plan(question(1e8)).unwrap();
        let plenty = plan(question(1e13)).unwrap();
        assert_eq!(scarce.law, LawName::Muennighoff2023C4);
        assert!(scarce.chosen.loss > plenty.chosen.loss);
        assert!(scarce.repeated.unwrap().epochs > 1.0 && plenty.repeated.unwrap().epochs < 1.0);
        // A loss is reached with the operations that lead to it.
        let loss = Question {
            loss: Some(scarce.chosen.loss),
            unique_tokens: Some(1e8),
            ..Question::default()
        };
        let flops = plan(loss).unwrap().chosen.flops;
        assert!((flops / 1e20 - 1.0).abs() < 1e-2, "{flops:e}");
    }
}
