#!/bin/sh
# Makes the stubs from the .proto files with grpcio-tools: generate.sh [DIRECTORY]; without it they lie beside the examples.
# PYTHON names the interpreter.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
exec "${PYTHON:-python3}" -m grpc_tools.protoc -I"$here/../../proto/proto" \
    --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" semlink/v1/semlink.proto
