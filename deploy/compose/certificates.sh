#!/usr/bin/env bash
# Makes an authority and a certificate for each service and one client, for deploy/compose/mtls.yaml and the like. For trying out and small
# installations: the authority's key lies beside the rest, so keep the folder to yourself.
#   deploy/compose/certificates.sh [FOLDER [NAME ...]]     FOLDER: deploy/compose/certificates; more NAMEs of hosts go into every certificate
set -euo pipefail
folder=${1:-"$(dirname "$0")/certificates"}
shift || true
days=${DAYS:-365}
mkdir -p "$folder"
cd "$folder"
new_key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }
if [ ! -e ca.pem ]; then
    new_key ca.key
    openssl req -x509 -new -key ca.key -sha256 -days "$days" -subj '/CN=semlink authority' -out ca.pem \
        -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' -addext 'keyUsage=critical,keyCertSign'
fi
for name in receiver emulator transmitter dashboard client; do
    new_key "$name.key"
    names="DNS:$name,DNS:semlink-$name,DNS:localhost,IP:127.0.0.1"
    for more in "$@"; do names="$names,DNS:$more"; done
    extensions=$(mktemp)
    printf '%s\n' 'basicConstraints=CA:FALSE' 'keyUsage=critical,digitalSignature' 'extendedKeyUsage=serverAuth,clientAuth' \
        "subjectAltName=$names" >"$extensions"
    openssl req -new -key "$name.key" -subj "/CN=$name" |
        openssl x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -sha256 -days "$days" -extfile "$extensions" -out "$name.pem" 2>/dev/null
    rm "$extensions"
    # The containers' user has no name and no group here: it reads what all may read. Whoever reads this folder can be any service.
    chmod 644 "$name.key" "$name.pem"
done
chmod 644 ca.pem
chmod 600 ca.key
echo "$folder: ca.pem, and NAME.pem with NAME.key for receiver, emulator, transmitter, dashboard and client" >&2
