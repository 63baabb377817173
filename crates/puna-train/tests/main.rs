//! Training against PyTorch: losses, gradients, optimizer steps.

mod golden;
