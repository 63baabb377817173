//! Compiles the kernels to PTX, for the GPU of this machine or `CUDA_COMPUTE_CAP`, as candle's are.

#[cfg(not(feature = "cuda"))]
fn main() {}

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    // Kernels that were not compiled to wait for what they read must not start before it is there.
    let capability = cudaforge::detect_compute_cap()?.base();
    println!("cargo::rustc-check-cfg=cfg(overlapping_kernels)");
    if capability >= 90 {
        println!("cargo::rustc-cfg=overlapping_kernels");
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default());
    let kernels = cudaforge::KernelBuilder::new()
        .source_dir("kernels")
        .arg("-std=c++17")
        .arg("-O3")
        .build_ptx()?;
    kernels.write(out.join("ptx.rs"))
}
