//! The one decoder, loaded from and saved to any checkpoint dialect.
