#!/usr/bin/env bash
# Builds the images, tests them as containers, and removes containers, networks and images again. KEEP=1 keeps the images.
set -euo pipefail
cd "$(dirname "$0")/.."
export SEMLINK_TAG=test-$$
base=semlink-base-shell:local
had_base=$(docker image inspect --format '{{.Id}}' "$base" 2>/dev/null || true)
cleanup() {
    [ -z "${KEEP:-}" ] || return 0
    for name in semlink-transmitter semlink-channel-emulator semlink-receiver semlink; do
        docker image rm --force "$name:$SEMLINK_TAG" >/dev/null 2>&1 || true
    done
    # The stages of such builds, which hold copies of binaries; those of builds that compile are a cache and stay.
    docker image prune --force --filter label=semlink.prebuilt=target/prebuilt >/dev/null 2>&1 || true
    [ -n "$had_base" ] || docker image rm "$base" >/dev/null 2>&1 || true
}
trap cleanup EXIT
TARGETS='transmitter channel-emulator receiver semlink' deploy/docker/build.sh "$SEMLINK_TAG"
cargo test --workspace --test containers -- --test-threads 1
