//! Differentiable ops and layers over candle-core.
