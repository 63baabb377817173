//! Read and write checkpoints: safetensors, PyTorch, Meta, GGUF, the Hub.
