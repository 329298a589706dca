#!/usr/bin/env bash
# Builds an emulated GPU: libraries that take the places of the driver, cuBLAS and cuRAND and execute kernels on the CPU, so that a build with the
# feature `cuda` runs, unchanged, on a machine without a GPU. Built again, only what has changed is compiled.
#   eval "$(bench/emulated-gpu.sh [DIR])"        builds into DIR (default .cuda/emulated), prints the variables to export
# Needs g++, make, and a CUDA toolkit: that of bench/cuda-toolkit.sh or an installed one. See docs/GPU.md, "Without a GPU".
set -euo pipefail
dir=$(realpath -m "${1:-.cuda/emulated}")
cd "$(dirname "$0")/.."
cuda=${CUDA_HOME:-/usr/local/cuda}
candle=$(cargo metadata --format-version 1 --all-features | grep -oE '"manifest_path":"[^"]*/candle-kernels-[^"/]*/Cargo.toml"' | cut -d '"' -f 4)
make --silent -j "$(nproc)" -C bench/emulated-gpu OUT="$dir" CUDA_HOME="$cuda" CANDLE="$(dirname "$candle")/src" >&2
echo "export LD_LIBRARY_PATH='$dir:$cuda/lib:$cuda/lib64':\${LD_LIBRARY_PATH:-}"
