#!/usr/bin/env bash
# Renders every overlay and holds it against the published schemas (strictly) and a security linter; prints what was found, and fails on any.
#   deploy/kubernetes/validate.sh [PYTHON]      a Python with the packages of requirements.txt beside this file; needs kubectl
set -euo pipefail
python=$(command -v "${1:-python3}") || { echo "validate.sh: there is no program ${1:-python3}" >&2; exit 1; }
# Absolute, as the folder changes; not through links, which would lead out of a virtual environment.
bin=$(cd "$(dirname "$python")" && pwd)
python=$bin/$(basename "$python")
for tool in kubernetes-validate checkov; do
    [ -x "$bin/$tool" ] || { echo "validate.sh: $bin has no $tool: pip install -r deploy/kubernetes/requirements.txt" >&2; exit 1; }
done
cd "$(dirname "$0")"
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
overlays=(server edge all secure training training/gather)
for overlay in "${overlays[@]}"; do
    kubectl kustomize "$overlay" >"$rendered/${overlay//\//-}.yaml"
done
./encoder.sh ../../assets/fashion-mnist >"$rendered/encoder.yaml"
# Its status says no more than its lines, which are counted: each object must be among them, so that a tool that fails is no success.
"$bin/kubernetes-validate" --strict "$rendered"/*.yaml >"$rendered/schemas" 2>&1 || true
objects=$(cat "$rendered"/*.yaml | grep -c '^kind: ')
errors=$(grep -c '^ERROR' "$rendered/schemas" || true)
# Prometheus' operator brings the schema of its own kind along; of all others every one must be known.
unknown=$(grep '^WARN' "$rendered/schemas" | grep -vc 'kind ServiceMonitor' || true)
judged=$(grep -c -E '^(INFO|WARN|ERROR)' "$rendered/schemas" || true)
if [ "$judged" -lt "$objects" ]; then
    cat "$rendered/schemas" >&2
    echo "validate.sh: kubernetes-validate judged $judged of $objects objects" >&2
    exit 1
fi
# --skip-download: nothing is asked of the linter's maker. What is skipped is in .checkov.yaml with its reason.
"$bin/checkov" --config-file .checkov.yaml --directory "$rendered" --framework kubernetes --output json >"$rendered/lint" 2>/dev/null || true
kubernetes=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["failed"])' "$rendered/lint")
"$bin/checkov" --config-file .checkov.yaml --file ../docker/Dockerfile --framework dockerfile --output json >"$rendered/lint" 2>/dev/null || true
dockerfile=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["failed"])' "$rendered/lint")
findings=$((kubernetes + dockerfile))
echo "overlays ${#overlays[@]}, objects $objects, schema errors $((errors + unknown)), linter findings $findings"
if [ "$((errors + unknown + findings))" -gt 0 ]; then
    grep -E '^(ERROR|WARN)' "$rendered/schemas" >&2 || true
    "$bin/checkov" --config-file .checkov.yaml --directory "$rendered" --framework kubernetes --quiet --compact >&2 2>/dev/null || true
    "$bin/checkov" --config-file .checkov.yaml --file ../docker/Dockerfile --framework dockerfile --quiet --compact >&2 2>/dev/null || true
    exit 1
fi
