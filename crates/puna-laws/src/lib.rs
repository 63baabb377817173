//! Scaling laws: published constants and what follows from them, and fits to a sweep's points.
//!
//! A law says which loss a number of parameters and tokens leads to, so that a budget can be
//! divided between them before it is spent. Everything here is arithmetic on a few numbers; no
//! model is loaded.
//!
//! From a table of runs to a prediction with its interval:
//!
//! ```no_run
//! use puna_laws::{Count, FitOptions, Level, bootstrap, fit, read_points};
//!
//! let file = read_points("sweep.csv".as_ref(), Count::Matmul)?;
//! let options = FitOptions::default();
//! let fitted = fit(&file.points, &options, &|_, _| ())?;
//! let ensemble = bootstrap(&file.points, &fitted, &options, 1000, &|_, _| ())?;
//! let loss = fitted.law.loss(1e9, 20e9);
//! let between = ensemble.loss(1e9, 20e9, Level::Percent80);
//! # Ok::<(), puna_laws::LawError>(())
//! ```

mod ensemble;
mod envelope;
mod error;
mod figures;
mod fit;
mod frontier;
mod gopher;
mod isoflop;
mod law;
mod loss_frontier;
mod points;
mod power_law;
mod repeated;

// Machines, memory and plans.
mod claims;
mod cost;
mod hardware;
mod layout;
mod memory;
mod numbers;
mod plan;
mod shape;

pub use ensemble::{Ensemble, Interval, Level};
pub use envelope::{Envelope, envelope};
pub use error::LawError;
pub use figures::{Study, draw_figures};
pub use fit::{DELTA, Fit, FitOptions, RobustLoss, bootstrap, fit, objective_of};
pub use frontier::FrontierEnsemble;
pub use gopher::GopherShape;
pub use isoflop::{Budgets, Group, IsoFlop, Parabola, WINDOW, group_by_budget, isoflop};
pub use law::{Allocation, LawName, ParametricLaw, SERVE_FLOPS, TRAIN_FLOPS};
pub use loss_frontier::LossFrontier;
pub use points::{
    Count, FEWEST_POINTS, Outliers, Point, PointFile, is_besiroglu2024, parse_points, read_points,
    without_outliers,
};
pub use power_law::{FrontierLaw, PowerLaw, PowerLawName, kaplan_loss};
pub use repeated::{MOST_EPOCHS, RepeatedAllocation, RepeatedData};

pub use claims::{
    CARDS, Card, Claim, Figure, Fill, MIN_FILL, RESERVED_GIB, TrainingFill, Unit, WEIGHT_FACTOR,
    claims, inference_fill, training_fill,
};
pub use cost::{
    Effort, GptShape, USUAL_MFU, USUAL_PUE, USUAL_UPTIME, decode_bound, energy_kwh, flops_of_hours,
    gpu_hours, serving_flops, training_flops, training_flops_with_attention, utilization,
};
pub use hardware::{GIB, Gpu, Machine, MemorySource, Peak};
pub use layout::{Batch, Fixed, Layout, Placed, search};
pub use memory::{
    ActivationShape, AdapterTraining, CONTEXT_BYTES, Inference, Item, Need, Optimizer, Recompute,
    StateBytes, Training, WeightFormat, Zero, adapter_params, adapter_training, inference,
    llama_block_bytes, training, weight_bytes,
};
pub use numbers::{parse_count, short_count, short_power};
pub use plan::{
    Choice, DATA_FLOPS, Guard, Intervals, MANY_TOKENS, Method, Overview, Plan, Question, Repeated,
    Resources, Said, Serving, Setting, Warning, Wish, overview, side_by_side,
};
pub use shape::{Text, shape_for};
