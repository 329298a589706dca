#!/usr/bin/env bash
# Builds the images of services, command line and trainer from binaries that the host compiles: for hosts without a registry, for tests and CI.
#   deploy/docker/build.sh [TAG]           images semlink-receiver:TAG ... (TAG: local)
#   TARGETS="receiver semlink" deploy/docker/build.sh
# With a registry at hand the Dockerfile compiles by itself, see its head. Needs Docker, and Rust with a C compiler.
set -euo pipefail
cd "$(dirname "$0")/../.."
tag=${1:-local}
target=target/static
prebuilt=target/prebuilt
stages=${TARGETS:-transmitter channel-emulator receiver semlink trainer}
PROGRAMS=$(for stage in $stages; do [ "$stage" = semlink ] && echo semlink || echo "semlink-$stage"; done | tr '\n' ' ') \
    CARGO_TARGET_DIR=${STATIC_TARGET:-$target} CARGO_PROFILE_RELEASE_STRIP=symbols CARGO_PROFILE_RELEASE_DEBUG=0 \
    sh deploy/docker/compile.sh "$(dpkg --print-architecture 2>/dev/null || echo amd64)" "$prebuilt"
deploy/docker/local-base.sh shell
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
for stage in $stages; do
    name=semlink-$stage
    [ "$stage" != semlink ] || name=semlink
    DOCKER_BUILDKIT=0 docker build --quiet --file deploy/docker/Dockerfile --target "$stage" --tag "$name:$tag" \
        --build-arg BUILD_BASE=semlink-base-shell:local --build-arg PREBUILT="$prebuilt" \
        --build-arg VERSION="$version" --build-arg REVISION="$revision" . >/dev/null
    docker image inspect --format "{{index .RepoTags 0}} {{.Size}} bytes" "$name:$tag"
done
