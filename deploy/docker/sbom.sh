#!/usr/bin/env bash
# Writes a bill of materials (CycloneDX, JSON) of each program beside its manifest, by cargo-cyclonedx (cargo install cargo-cyclonedx).
#   deploy/docker/sbom.sh [FOLDER]      copies them to FOLDER (target/sbom)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=${1:-target/sbom}
if ! cargo cyclonedx --version >/dev/null 2>&1; then
    echo 'sbom.sh: cargo-cyclonedx is needed: cargo install --locked cargo-cyclonedx' >&2
    exit 1
fi
mkdir -p "$out"
for package in transmitter channel-emulator receiver semlink trainer; do
    name=semlink-$package
    [ "$package" != semlink ] || name=semlink
    cargo cyclonedx --quiet --format json --manifest-path "$package/Cargo.toml" --override-filename "$name"
    mv "$package/$name.json" "$out/$name.cdx.json"
    rm -f ./*/"$name.json" ./crates/*/"$name.json"
done
ls "$out"
