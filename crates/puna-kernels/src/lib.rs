//! CPU kernels on slices and the block formats they read, dispatched at run time.
