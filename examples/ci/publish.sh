#!/bin/sh
# Builds, pushes and signs an image of one BPF object, and checks the result as a host will. For any CI: it needs clang, bpfctl, and
#   IMAGE    where it goes, as in registry.example/team/filter:1.4.0
#   SOURCE   the program in C
#   KEY      the file of the private key; a secret of the CI
#   KEY_PUB  the file of the public key
# Credentials of the registry: `bpfctl login`, or $REGISTRY_AUTH_FILE. Prints the reference by digest that was published.
set -eu

object=$(mktemp --suffix .bpf.o)
trap 'rm -f "$object"' EXIT
clang -O2 -g -Wall -Werror -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -c "$SOURCE" -o "$object"

digest=$(bpfctl image build "$object" --tag "$IMAGE" --quiet)
bpfctl image push "$IMAGE" --quiet >/dev/null
published=${IMAGE%:*}@$digest
bpfctl image sign "$published" --key "$KEY" --quiet >/dev/null
bpfctl image verify "$published" --key "$KEY_PUB" --quiet >/dev/null
echo "$published"
