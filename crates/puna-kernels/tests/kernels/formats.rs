//! Block formats against reference data.
