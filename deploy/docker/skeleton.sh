#!/bin/sh
# skeleton.sh FROM TO: the workspace's manifests with empty sources, enough for cargo to compile every dependency.
set -eu
from=$1 to=$2
mkdir -p "$to"
cp "$from/Cargo.toml" "$from/Cargo.lock" "$to/"
cd "$from"
find . -mindepth 2 -name Cargo.toml -not -path './target/*' | while read -r manifest; do
    package=$(dirname "$manifest")
    mkdir -p "$to/$package/src"
    # Targets that the manifest names by path are left out with their sources: only libraries and binaries count here.
    cp "$manifest" "$to/$package/"
    : >"$to/$package/src/lib.rs"
    for source in build.rs; do
        [ ! -e "$package/$source" ] || echo 'fn main() {}' >"$to/$package/$source"
    done
    [ ! -e "$package/src/main.rs" ] || echo 'fn main() {}' >"$to/$package/src/main.rs"
    # Targets by path.
    sed -n 's/^path = "\(.*\.rs\)"$/\1/p' "$manifest" | while read -r source; do
        mkdir -p "$to/$package/$(dirname "$source")"
        echo 'fn main() {}' >"$to/$package/$source"
    done
done
