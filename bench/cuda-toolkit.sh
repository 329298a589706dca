#!/usr/bin/env bash
# Sets up what a build with the feature `cuda` needs, on a machine with or without a GPU: NVIDIA's compiler and libraries as Python packages
# (about 2 GB, CUDA 13.0), the library names that the linker looks for, and a stand-in for the driver's libcuda to link against.
#   eval "$(bench/cuda-toolkit.sh [DIR])"        installs into DIR (default .cuda) once, prints the variables to export
#   eval "$(bench/cuda-toolkit.sh DIR nccl)"     with NCCL, for the feature nccl
#   cargo build --release -p semlink-trainer --features cuda
# Not needed where a CUDA 13 toolkit is installed: then CUDA_HOME and PATH are enough. See docs/GPU.md.
set -euo pipefail
dir=$(realpath -m "${1:-.cuda}")
home() { echo "$dir"/lib/python3*/site-packages/nvidia/cu13; }
if [ ! -e "$(home)/lib/stubs/libcuda.so" ]; then
    python3 -m venv "$dir" >&2
    "$dir/bin/pip" install --quiet 'cuda-toolkit[nvcc,cudart,cublas,curand,nvrtc,cccl,crt,nvvm]==13.0.*' >&2
    lib=$(home)/lib
    for name in cudart cublas cublasLt curand nvrtc; do
        versioned=$(ls "$lib/lib$name.so."* | head -n 1)
        ln -sf "$(basename "$versioned")" "$lib/lib$name.so"
    done
    ln -sfn lib "$(home)/lib64"
    mkdir -p "$lib/stubs"
    # Every function that the driver's header declares, as a function that fails.
    python3 - "$(home)/include/cuda.h" >"$dir/libcuda.c" <<'PYTHON'
import re
import sys

header = open(sys.argv[1]).read()
names = set(re.findall(r"\bCUDAAPI\s+(cu[A-Z]\w*)\s*\(", header))
for plain, versioned in re.findall(r"#define\s+(cu[A-Z]\w*)\s+(?:__CUDA_API_\w+\()?(cu[A-Z]\w*)", header):
    names |= {plain, versioned} | {plain + suffix for suffix in ("_v2", "_v3", "_ptsz")}
for name in sorted(names):
    print(f"int {name}(void) {{ return 999; }}")
PYTHON
    cc -shared -fPIC -w -Wl,-soname,libcuda.so.1 -o "$lib/stubs/libcuda.so" "$dir/libcuda.c"
fi
if [ "${2:-}" = nccl ] && [ ! -e "$(home)/lib/libnccl.so.2" ]; then
    "$dir/bin/pip" install --quiet 'nvidia-nccl-cu13>=2.30' >&2
    for name in libnccl.so libnccl.so.2; do
        ln -sf ../../nccl/lib/libnccl.so.2 "$(home)/lib/$name"
    done
fi
cat <<EXPORTS
export CUDA_HOME='$(home)' CUDA_PATH='$(home)' CUDA_ROOT='$(home)' CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-90}
export PATH='$(home)/bin':\$PATH
EXPORTS
