#!/bin/sh
# compile.sh ARCH [OUT]: static binaries of services, command line and trainer; copies them to OUT.
set -eu
case $1 in
amd64) target=x86_64-unknown-linux-gnu ;;
arm64) target=aarch64-unknown-linux-gnu ;;
*) echo "compile.sh: no target for architecture $1: amd64 and arm64 are known" >&2; exit 64 ;;
esac
host=$(rustc -vV | sed -n 's/^host: //p')
if [ "$host" != "$target" ]; then
    # From another architecture: the target's standard library and its linker (Debian: gcc-aarch64-linux-gnu, gcc-x86-64-linux-gnu).
    rustup target add "$target"
    linker=$(echo "$target" | sed 's/-unknown//')-gcc
    export "CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER=$linker"
fi
# Static: glibc resolves names by itself since 2.34.
export RUSTFLAGS='-C target-feature=+crt-static'
# PROGRAMS: which of them; all by default.
programs=${PROGRAMS:-semlink-transmitter semlink-channel-emulator semlink-receiver semlink semlink-trainer}
# shellcheck disable=SC2086
cargo build --release --locked --target "$target" $(printf -- '-p %s ' $programs)
if [ $# -gt 1 ]; then
    mkdir -p "$2"
    for name in $programs; do
        cp "${CARGO_TARGET_DIR:-target}/$target/release/$name" "$2/"
    done
fi
