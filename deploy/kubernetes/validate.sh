#!/usr/bin/env bash
# Renders every overlay and holds it against the published schemas (strictly) and a security linter; prints what was found, and fails on any.
#   deploy/kubernetes/validate.sh [PYTHON]      a Python with the packages of requirements.txt beside this file; needs kubectl
set -euo pipefail
cd "$(dirname "$0")"
python=${1:-python3}
bin=$(dirname "$(command -v "$python")")
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
overlays=(server edge all secure training training/gather)
for overlay in "${overlays[@]}"; do
    kubectl kustomize "$overlay" >"$rendered/${overlay//\//-}.yaml"
done
./encoder.sh ../../assets/fashion-mnist >"$rendered/encoder.yaml"
errors=$("$bin/kubernetes-validate" --strict --no-warn "$rendered"/*.yaml 2>&1 | grep -c '^ERROR' || true)
# Prometheus' operator brings the schema of its own kind along; of all others every one must be known.
unknown=$("$bin/kubernetes-validate" --strict "$rendered"/*.yaml 2>&1 | grep '^WARN' | grep -vc 'ServiceMonitor' || true)
# --skip-download: nothing is asked of the linter's maker. What is skipped is in .checkov.yaml with its reason.
findings=0
"$bin/checkov" --config-file .checkov.yaml --directory "$rendered" --framework kubernetes --output json >"$rendered/lint" 2>/dev/null || true
kubernetes=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["failed"])' "$rendered/lint")
"$bin/checkov" --config-file .checkov.yaml --file ../docker/Dockerfile --framework dockerfile --output json >"$rendered/lint" 2>/dev/null || true
dockerfile=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["summary"]["failed"])' "$rendered/lint")
findings=$((kubernetes + dockerfile))
echo "overlays ${#overlays[@]}, schema errors $((errors + unknown)), linter findings $findings"
if [ "$((errors + unknown + findings))" -gt 0 ]; then
    "$bin/kubernetes-validate" --strict "$rendered"/*.yaml 2>&1 | grep -E '^(ERROR|WARN)' >&2 || true
    "$bin/checkov" --config-file .checkov.yaml --directory "$rendered" --framework kubernetes --quiet --compact >&2 2>/dev/null || true
    "$bin/checkov" --config-file .checkov.yaml --file ../docker/Dockerfile --framework dockerfile --quiet --compact >&2 2>/dev/null || true
    exit 1
fi
