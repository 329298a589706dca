#!/usr/bin/env bash
# Runs the fuzz targets, see README.md beside it: run.sh [-n EXECUTIONS] [-o FOLDER] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"

executions=1000000
out=${CARGO_TARGET_DIR:-../target}/fuzz-runs
while getopts n:o: flag; do
    case $flag in
        n) executions=$OPTARG ;;
        o) out=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    targets=(image frame control bundle genotype recipe sigmf)
fi

# Coverage of edges and comparisons, with stable flags alone. A target triple keeps them from build scripts and macros.
triple=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
-C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
-C llvm-args=-sanitizer-coverage-trace-compares"
cargo build --quiet --profile fuzz -p semlink-fuzz --features libfuzzer --bins --target "$triple"
programs=${CARGO_TARGET_DIR:-../target}/$triple/fuzz

mkdir -p "$out"
failed=0
for target in "${targets[@]}"; do
    found=$out/corpus-$target
    crashes=$out/crashes-$target
    mkdir -p "$found" "$crashes"
    # What fuzzers find lands in the first folder; the last one is only read.
    begun=$(date +%s.%N)
    status=0
    RAYON_NUM_THREADS=1 "$programs/$target" -runs="$executions" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -artifact_prefix="$crashes/" -print_final_stats=1 "$found" "corpus/$target" 2>"$out/$target.log" || status=$?
    seconds=$(echo "$(date +%s.%N) - $begun" | bc)
    [ $status = 0 ] || failed=1
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log" | tail -1)
    coverage=$(grep -o 'cov: [0-9]*' "$out/$target.log" | tail -1 | cut -d' ' -f2)
    files=$(find "$crashes" -type f | wc -l)
    printf '{"target": "%s", "executions": %s, "seconds": %.0f, "crashes": %s, "coverage": %s}\n' \
        "$target" "${units:-0}" "$seconds" "$files" "${coverage:-0}" | tee -a "$out/results.jsonl"
done
exit $failed
