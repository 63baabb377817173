//! Golden files, tolerant asserts and gradcheck for puna's tests.
