//! With the feature `cuda`, compiles the kernels by NVIDIA's compiler: machine code for `CUDA_COMPUTE_CAP` (90 by default), and PTX from which
//! the driver of any GPU since Ampere compiles its own.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/cuda/kernels");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");
    println!("cargo::rerun-if-env-changed=NVCC");
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

fn compile() {
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "90".into());
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".into());
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.fatbin");
    let status = Command::new(&nvcc)
        .args(["-fatbin", "-O3", "--std=c++17"])
        .args(["-gencode", &format!("arch=compute_{capability},code=sm_{capability}")])
        .args(["-gencode", "arch=compute_80,code=compute_80"])
        .arg("-o")
        .arg(&out)
        .arg("src/cuda/kernels/all.cu")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{nvcc} failed on src/cuda/kernels/all.cu ({status})"),
        Err(error) => panic!("{nvcc} cannot be run ({error}); docs/GPU.md says how to set a CUDA build up"),
    }
}
