#!/usr/bin/env bash
# Builds with CUDA, checks every operator on the GPU against the CPU, and measures the rows of bench/results/gpu.json.
#   bench/gpu.sh [--data DIR] [--python PYTHON] [--only steps|supernet|features|recipe]
#   bench/gpu.sh --emulated      on any machine: only checks every operator and trains by small recipes, on an emulated GPU
# Needs a GPU of compute capability 8.0 or more with its driver, the toolkit (bench/cuda-toolkit.sh or an installed one), images of Fashion-MNIST
# for the recipe, and for the peers a Python with PyTorch that sees the GPU, and transformers.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvcc >/dev/null; then
    eval "$(bench/cuda-toolkit.sh)"
fi
export LD_LIBRARY_PATH="${CUDA_HOME:-/usr/local/cuda}/lib:${CUDA_HOME:-/usr/local/cuda}/lib64:${LD_LIBRARY_PATH:-}"
# Packages are named together each time: another choice changes features of dependencies, and the kernels of candle (minutes) are compiled anew.
build=(--release -p semlink-nn -p semlink-bench -p semlink-trainer --features semlink-bench/cuda --target-dir target/cuda)
if [ "${1:-}" = --emulated ]; then
    eval "$(bench/emulated-gpu.sh)"
    cargo test "${build[@]}" --test cuda -- --nocapture
    SEMLINK_DEVICE=cuda:0 cargo test "${build[@]}" --test recipes
    exit
fi
cargo test "${build[@]}" --test cuda -- --nocapture
cargo build "${build[@]}"
target/cuda/release/semlink-bench gpu "$@"
target/cuda/release/semlink-bench render
