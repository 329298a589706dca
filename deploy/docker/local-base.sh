#!/usr/bin/env bash
# Imports a base image from this host, where no registry can be reached.
#   deploy/docker/local-base.sh shell   semlink-base-shell:local: a shell and a few tools, enough for PREBUILT
#   deploy/docker/local-base.sh rust    semlink-base-rust:local: Debian with a C compiler and this host's Rust, enough to compile (debootstrap)
# Then: docker build --build-arg BUILD_BASE=semlink-base-rust:local ...
set -euo pipefail
kind=${1:-shell}
image=semlink-base-$kind:local
if docker image inspect "$image" >/dev/null 2>&1; then
    exit 0
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
case $kind in
shell)
    # This host's own tools with the libraries that they load.
    for tool in sh cp mkdir find chown sed dirname touch rm cat; do
        path=$(readlink -f "$(command -v "$tool")")
        mkdir -p "$root/bin"
        cp "$path" "$root/bin/$tool"
        { ldd "$path" 2>/dev/null || true; } | sed -n 's/^[^/]*\(\/[^ ]*\).*/\1/p' | while read -r library; do
            mkdir -p "$root$(dirname "$library")"
            cp -L "$library" "$root$library"
        done
    done
    tar -C "$root" -c . | docker import --change 'ENV PATH=/bin' - "$image" >/dev/null
    ;;
rust)
    debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root"
    mkdir -p "$root/opt/rust"
    cp -a "$(rustc --print sysroot)/." "$root/opt/rust/"
    tar -C "$root" -c . | docker import --change 'ENV PATH=/opt/rust/bin:/usr/local/bin:/usr/bin:/bin' - "$image" >/dev/null
    ;;
*)
    echo "local-base.sh: $kind is neither shell nor rust" >&2
    exit 64
    ;;
esac
echo "$image" >&2
