#!/usr/bin/env bash
# Builds with CUDA, checks every operator on the GPU against the CPU, and measures the rows of bench/results/gpu.json.
#   bench/gpu.sh [--data DIR] [--python PYTHON] [--only steps|supernet|recipe]
# Needs a GPU of compute capability 8.0 or more with its driver, the toolkit (bench/cuda-toolkit.sh or an installed one), images of Fashion-MNIST
# for the recipe, and for the peers a Python with PyTorch that sees the GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v nvcc >/dev/null; then
    eval "$(bench/cuda-toolkit.sh)"
fi
export LD_LIBRARY_PATH="${CUDA_HOME:-/usr/local/cuda}/lib:${CUDA_HOME:-/usr/local/cuda}/lib64:${LD_LIBRARY_PATH:-}"
cargo test --release -p semlink-nn --features cuda --target-dir target/cuda --test cuda -- --nocapture
cargo run --release -p semlink-bench --features cuda --target-dir target/cuda -- gpu "$@"
cargo run --release -p semlink-bench --features cuda --target-dir target/cuda -- render
