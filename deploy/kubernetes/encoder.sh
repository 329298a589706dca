#!/usr/bin/env bash
# Prints the edge half of a codec bundle as the ConfigMap `encoder`, which transmitters mount:
#   deploy/kubernetes/encoder.sh assets/fashion-mnist | kubectl apply -f -
# A changed one reaches the pods within a minute, whole: a mounted ConfigMap changes at once, and transmitters load it while they serve. Beyond 1 MiB, the
# limit of a ConfigMap, the half goes into a volume as the server's does.
set -euo pipefail
folder=${1:?folder of a bundle}
cat <<HEAD
apiVersion: v1
kind: ConfigMap
metadata:
  name: encoder
  namespace: semlink
binaryData:
HEAD
for file in bundle.json encoder.safetensors; do
    printf '  %s: %s\n' "$file" "$(base64 --wrap=0 "$folder/$file")"
done
