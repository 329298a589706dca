#!/usr/bin/env bash
# Reads preprocessed kernels and writes KERNEL(name, launch bound) for each, see device.h.
set -euo pipefail
tr '\n' ' ' |
    grep -oE '\(\(emulated_kernel\)\) +((void|__attribute__\(\(emulated_bound\([^)]*\)\)\)) +)+[A-Za-z0-9_]+ *\(' |
    sed -E -e 's/.*emulated_bound\(([^,)]+).* ([A-Za-z0-9_]+) *\(/KERNEL(\2, \1)/' -e 's/.* ([A-Za-z0-9_]+) *\($/KERNEL(\1, 1024)/'
