//! Generation: sampling, streaming, sessions, beam search.
