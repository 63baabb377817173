//! What can go wrong with laws and fits.

use std::path::PathBuf;

use puna_plot::PlotError;
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LawError {
    /// A law's name that is none.
    #[error("there is no law {name:?}; there are {known}")]
    UnknownLaw {
        /// As typed.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A table that could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file or folder that could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A picture that could not be drawn or written.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// A table without points.
    #[error("{name} holds no points: a line of column names and a line for each run are needed")]
    Empty {
        /// The table.
        name: String,
    },
    /// A table without the columns that a fit needs.
    #[error("{name} has the columns {found}; needed are {wanted}")]
    Columns {
        /// The table.
        name: String,
        /// The columns it has.
        found: String,
        /// What there should be.
        wanted: &'static str,
    },
    /// A number that cannot be used.
    #[error("{place}: {what} is {value}; a positive number is needed")]
    Value {
        /// Which point, or which line of which file.
        place: String,
        /// The quantity.
        what: &'static str,
        /// What stands there.
        value: String,
    },
    /// Too few points for five constants.
    #[error("{count} points cannot determine a law of five constants; {needed} are the least")]
    FewPoints {
        /// Points there are.
        count: usize,
        /// Points needed.
        needed: usize,
    },
    /// Points that are too much alike.
    #[error(
        "the {points} points have {count} number{} of {what}; {needed} different ones are the least",
        if *count == 1 { "" } else { "s" }
    )]
    FewValues {
        /// Parameters or tokens.
        what: &'static str,
        /// Different values.
        count: usize,
        /// Different values needed.
        needed: usize,
        /// Points there are.
        points: usize,
    },
    /// A fit whose loss does not fall with size and tokens.
    #[error(
        "the points determine no law: in the best fit alpha is {alpha:.4} and beta {beta:.4}, \
         and both must be positive"
    )]
    NoLaw {
        /// Exponent of parameters.
        alpha: f64,
        /// Exponent of tokens.
        beta: f64,
    },
    /// Too few fits for an interval.
    #[error("only {count} resamples gave a law; an interval needs 20")]
    FewResamples {
        /// Laws there are.
        count: usize,
    },
    /// An option out of its range.
    #[error("{option} is {got}; it must be {wanted}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        got: String,
        /// What can be.
        wanted: &'static str,
    },
    /// A text that is no number.
    #[error("{text:?} is no number; numbers look like 7e9, 70B, 1.4T or 5.76e23")]
    NotANumber {
        /// As typed.
        text: String,
    },
    /// A count that cannot be.
    #[error("{text:?} must be a positive finite number")]
    NotPositive {
        /// As typed.
        text: String,
    },
    /// An accelerator that is not in the table.
    #[error("there is no GPU {name:?} in the table; there are {known}")]
    UnknownGpu {
        /// As typed.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A name that several accelerators have.
    #[error("GPU {name:?} may be any of {candidates}")]
    AmbiguousGpu {
        /// As typed.
        name: String,
        /// Those that fit.
        candidates: String,
    },
    /// An accelerator whose FLOP rate nobody published.
    #[error("no peak FLOP/s of {gpu} is published, so nothing can be said about time on it")]
    NoPeak {
        /// Its name.
        gpu: String,
    },
    /// A storage format that is none.
    #[error("there is no weight format {name:?}; there are {known}")]
    UnknownFormat {
        /// As typed.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A layout for another number of devices.
    #[error("the layout's TP · CP · PP · DP is {layout}, but there are {gpus} GPUs")]
    OtherGpuCount {
        /// The product.
        layout: usize,
        /// The machine's.
        gpus: usize,
    },
    /// Tensor parallelism across the edge of the fast link.
    #[error("tensor parallelism over {tp} × {gpu}: the fast link joins {domain}")]
    BeyondDomain {
        /// Devices that would share a layer.
        tp: usize,
        /// The accelerator.
        gpu: String,
        /// How many the link joins.
        domain: usize,
    },
    /// A part of the model that cannot be divided.
    #[error("{value} {what} cannot be divided by {divisor} ({by})")]
    DoesNotDivide {
        /// What should be divided.
        what: &'static str,
        /// How many there are.
        value: usize,
        /// By what.
        by: &'static str,
        /// How many of those.
        divisor: usize,
    },
    /// No shape of the family has about this many parameters.
    #[error(
        "no LLaMA shape with a vocabulary of {vocab} has about {params:.3e} parameters{}",
        if *nearest > 0.0 { format!("; the nearest has {nearest:.3e}") } else { String::new() }
    )]
    NoShape {
        /// As asked.
        params: f64,
        /// Tokens.
        vocab: usize,
        /// The nearest count.
        nearest: f64,
    },
    /// Nothing to plan from.
    #[error("a plan needs a budget, a size, a number of tokens or a loss")]
    NothingAsked,
    /// Two wishes of which one decides the other.
    #[error("{first} and {second} cannot both be given: {why}")]
    TwoWishes {
        /// One option.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// Which decides which.
        why: &'static str,
    },
    /// An option that says nothing without another.
    #[error("{option} needs {needs}")]
    Needs {
        /// The option.
        option: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A way of storing weights that a method cannot use.
    #[error("{method} cannot use weights in {format}; it can use {known}")]
    WrongFormat {
        /// The method.
        method: &'static str,
        /// The format.
        format: &'static str,
        /// Those it can use.
        known: &'static str,
    },
    /// A budget, a size and a number of tokens that are not one training.
    #[error(
        "a budget of {flops:.4e} FLOP disagrees with {params:.4e} parameters and {tokens:.4e} tokens, \
         which take 6 N D = {implied:.4e}"
    )]
    Disagree {
        /// The budget.
        flops: f64,
        /// The size.
        params: f64,
        /// The tokens.
        tokens: f64,
        /// What they take.
        implied: f64,
    },
    /// A loss that no training reaches.
    #[error("loss {loss} is unreachable {with}: the law's limit is {limit:.4}")]
    Unreachable {
        /// As asked.
        loss: f64,
        /// With what.
        with: String,
        /// The lowest there is.
        limit: f64,
    },
    /// A budget far from those of the law's data.
    #[error(
        "{flops:.2e} FLOP is more than three decades from the budgets that the laws were fitted on \
         (1.4e18 to 1.3e22)"
    )]
    BeyondData {
        /// The budget.
        flops: f64,
    },
    /// Hoffmann's rounded constants.
    #[error(
        "hoffmann2022_rounded misleads: at 5.76e23 FLOP its printed digits give {rounded:.2} tokens \
         per parameter, the unrounded constants {exact:.1}"
    )]
    RoundedLaw {
        /// Of the rounded constants.
        rounded: f64,
        /// Of hoffmann2022_tex.
        exact: f64,
    },
    /// A preset or file that cannot be read as a model.
    #[error(transparent)]
    Config(#[from] puna_config::ConfigError),
}

/// `Result` with this crate's error.
pub(crate) type Result<T, E = LawError> = std::result::Result<T, E>;
