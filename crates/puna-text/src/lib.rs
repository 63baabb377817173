//! Text in and out of token ids: tokenizers and chat templates.
