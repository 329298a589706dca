#!/usr/bin/env bash
# Imports a base image from this host, where no registry can be reached.
#   deploy/docker/local-base.sh shell   semlink-base-shell:local: a static shell, enough for PREBUILT (Debian: busybox-static)
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
    busybox=$(command -v busybox || true)
    if [ -z "$busybox" ] || ldd "$busybox" >/dev/null 2>&1; then
        echo 'local-base.sh: a static busybox is needed (Debian: apt-get install busybox-static)' >&2
        exit 1
    fi
    mkdir -p "$root/bin" "$root/tmp"
    cp "$busybox" "$root/bin/busybox"
    "$busybox" --list | while read -r name; do ln -sf busybox "$root/bin/$name"; done
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
