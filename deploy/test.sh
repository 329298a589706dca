#!/usr/bin/env bash
# Builds the images, tests them as containers, and removes containers, networks and images again. KEEP=1 keeps the images.
set -euo pipefail
cd "$(dirname "$0")/.."
export SEMLINK_TAG=test-$$
cleanup() {
    [ -n "${KEEP:-}" ] && return
    for name in semlink-transmitter semlink-channel-emulator semlink-receiver semlink; do
        docker image rm --force "$name:$SEMLINK_TAG" >/dev/null 2>&1 || true
    done
}
trap cleanup EXIT
TARGETS='transmitter channel-emulator receiver semlink' deploy/docker/build.sh "$SEMLINK_TAG"
cargo test --workspace --test containers -- --test-threads 1
