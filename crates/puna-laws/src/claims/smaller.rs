//! "Train a smaller model on more data, so that inference is cheaper": until when it is, and how
//! far it goes.

use serde_json::{Map, Value, json};

use super::{Claim, Figure, Unit, figure};
use crate::cost::training_flops;
use crate::law::{Allocation, LawName, ParametricLaw};
use crate::numbers::short_count;
use crate::plan::break_even;

/// Big models to be replaced, their tokens, and the smaller sizes.
const TEN: (f64, f64) = (10e9, 200e9);
const SEVENTY: (f64, f64) = (70e9, 1.4e12);

fn trained(law: &ParametricLaw, params: f64, tokens: f64) -> Allocation {
    let loss = law.loss(params, tokens);
    Allocation { flops: training_flops(params, tokens), params, tokens, loss }
}

/// `params` parameters with the loss of `big`; `None` where no number of tokens is enough.
fn smaller(law: &ParametricLaw, big: &Allocation, params: f64) -> Option<Allocation> {
    law.tokens_for_loss(params, big.loss).map(|tokens| trained(law, params, tokens))
}

fn or_unreachable(tokens: Option<f64>) -> Value {
    tokens.map_or_else(|| json!("unreachable"), |tokens| json!(tokens))
}

/// One small model in a big one's place.
struct Swap {
    big: Allocation,
    small: Option<Allocation>,
}

impl Swap {
    fn of(law: &ParametricLaw, (params, tokens): (f64, f64), small: f64) -> Self {
        let big = trained(law, params, tokens);
        Self { big, small: smaller(law, &big, small) }
    }

    fn tokens(&self) -> Value {
        or_unreachable(self.small.map(|small| small.tokens))
    }

    fn train_ratio(&self) -> f64 {
        self.small.map_or(f64::INFINITY, |small| small.flops / self.big.flops)
    }

    fn break_even(&self) -> Option<f64> {
        self.small.and_then(|small| break_even(&self.big, &small))
    }
}

fn value(key: &str, what: &str, value: Value) -> Figure {
    Figure { key: key.to_owned(), what: what.to_owned(), value, unit: Unit::Count }
}

/// What a swap costs and from when on it pays, under these keys.
fn figures(swap: &Swap, size: &str, keys: [&str; 4], big: &str) -> Vec<Figure> {
    let [loss, tokens, ratio, even] = keys;
    vec![
        figure(loss, format!("loss of {big}"), Unit::Loss, swap.big.loss),
        value(tokens, &format!("{size} reaches it with"), swap.tokens()),
        figure(ratio, "training, against the larger model's", Unit::Ratio, swap.train_ratio()),
        value(
            even,
            "cheaper in all from this many served tokens on",
            or_unreachable(swap.break_even()),
        ),
    ]
}

pub(super) fn claim() -> Claim {
    let law = LawName::Besiroglu2024.parametric();
    let other = LawName::DeVries2023Sardana2024.parametric();
    let seven = Swap::of(&law, TEN, 7e9);
    let beyond = Swap::of(&law, SEVENTY, 7e9);
    let keys = [
        "besiroglu_loss_10b_200b",
        "tokens_7b_same_loss",
        "train_ratio",
        "breakeven_inference_tokens",
    ];
    let mut all = figures(&seven, "7B", keys, "10B on 200B tokens");
    let keys = ["loss_70b_1p4t", "tokens_34b_same_loss", "train_ratio_34b", "breakeven_34b"];
    all.extend(figures(&Swap::of(&law, SEVENTY, 34e9), "34B", keys, "70B on 1.4T tokens"));
    all.extend([
        value(
            "tokens_13b_same_loss_as_70b",
            "13B reaches it with",
            Swap::of(&law, SEVENTY, 13e9).tokens(),
        ),
        value(
            "tokens_13b_same_loss_as_70b_devries",
            "the same by de Vries's constants",
            Swap::of(&other, SEVENTY, 13e9).tokens(),
        ),
        value("tokens_7b_same_loss_as_70b", "7B reaches it with", beyond.tokens()),
    ]);
    let verdict = match (seven.break_even(), beyond.small) {
        (Some(tokens), None) => format!(
            "true once more than {} tokens are served; bounded: 7B never reaches the 70B's \
             loss, since E + A N^-alpha is above it already",
            short_count(tokens)
        ),
        (Some(tokens), Some(_)) => {
            format!("true once more than {} tokens are served", short_count(tokens))
        }
        (None, _) => "false: the smaller model never pays".to_owned(),
    };
    Claim {
        id: "meta_smaller_longer",
        quote: "for a target quality, train a smaller model on more data so that inference is \
                cheaper",
        assumptions: vec![
            "quality is loss, by the Besiroglu refit".to_owned(),
            "a trained token takes 6 N operations, a served one 2 N".to_owned(),
        ],
        inputs: Map::from_iter([
            ("law".to_owned(), json!(LawName::Besiroglu2024.name())),
            ("big".to_owned(), json!([[TEN.0, TEN.1], [SEVENTY.0, SEVENTY.1]])),
            ("small_params".to_owned(), json!([7e9, 34e9, 13e9])),
        ]),
        figures: all,
        verdict,
    }
}
