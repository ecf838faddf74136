#!/bin/sh
# One release of a BPF program as an image, step by step: what a pipeline runs, and what you can run by hand.
#
#   release.sh compile lint build push sign attest verify deploy
#
# It reads:
#   IMAGE      registry and repository, as registry.example/bpf/counter
#   VERSION    the tag, as 1.4.0; it should be the `version` in METADATA
#   SOURCE     the C file
#   METADATA   bytecode.toml
#   POLICY     the policy that the hosts have, or the part of it that is about this image; without it, KEY_PUB
#   KEY        a private key; without it cosign signs with the identity of the job (keyless)
#   KEY_PUB    its public key, which `verify` wants a signature of if there is no POLICY
#   SBOM       an SPDX document in JSON, as `syft -o spdx-json` writes; without it syft makes one
#   OUT        a directory for what is made [out]
# and, for the provenance, BUILDER, REPOSITORY and COMMIT. The registry's password is in the auth file (`bpfctl login`).
set -eu

: "${IMAGE:?}" "${VERSION:?}" "${OUT:=out}"
mkdir -p "$OUT"
# The date of the commit, so that one commit is one digest whenever it is built.
if [ -z "${SOURCE_DATE_EPOCH:-}" ] && epoch=$(git log -1 --format=%ct 2>/dev/null); then
    SOURCE_DATE_EPOCH=$epoch
fi
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}"

# Architectures as clang's headers and as images call them. What reads no registers is the same for all of them; kprobes are not.
compile() {
    for pair in x86:amd64 arm64:arm64; do
        clang -g -O2 -Wall -Werror -target bpf "-D__TARGET_ARCH_${pair%:*}" "-ffile-prefix-map=$PWD=." \
            "-I/usr/include/$(uname -m)-linux-gnu" -c "$SOURCE" -o "$OUT/${pair#*:}.bpf.o"
    done
}

lint() {
    bpfctl image lint --strict --metadata "$METADATA" "$OUT/amd64.bpf.o" "$OUT/arm64.bpf.o"
}

build() {
    bpfctl image build --store "$OUT/images" --metadata "$METADATA" --tag "$IMAGE:$VERSION" -q \
        "amd64=$OUT/amd64.bpf.o" "arm64=$OUT/arm64.bpf.o" >"$OUT/digest"
    cat "$OUT/digest"
}

# Everything after this is about the digest that was built, whatever the tag comes to name.
push() {
    bpfctl image push --store "$OUT/images" "$IMAGE:$VERSION"
}

by_digest() {
    echo "$IMAGE@$(cat "$OUT/digest")"
}

sign() {
    if [ -n "${KEY:-}" ]; then
        bpfctl image sign --key "$KEY" --format both "$IMAGE:$VERSION"
    else
        cosign sign --yes "$(by_digest)"
    fi
}

# PREDICATE-TYPE FILE
attest_one() {
    if [ -n "${KEY:-}" ]; then
        bpfctl image attest --key "$KEY" --type "$1" --predicate "$2" "$(by_digest)"
    else
        cosign attest --yes --type "$1" --predicate "$2" "$(by_digest)"
    fi
}

attest() {
    cat >"$OUT/provenance.json" <<EOF
{"buildDefinition": {
   "buildType": "https://bpfd.example/examples/ci/v1",
   "externalParameters": {"source": "$SOURCE", "version": "$VERSION"},
   "resolvedDependencies": [{"uri": "git+${REPOSITORY:-file://$PWD}", "digest": {"gitCommit": "${COMMIT:-unknown}"}}]},
 "runDetails": {"builder": {"id": "${BUILDER:-$(id -un)}"}}}
EOF
    if [ -z "${SBOM:-}" ]; then
        SBOM=$OUT/sbom.spdx.json
        syft scan "dir:$(dirname "$SOURCE")" -o "spdx-json=$SBOM"
    fi
    attest_one https://slsa.dev/provenance/v1 "$OUT/provenance.json"
    attest_one https://spdx.dev/Document "$SBOM"
}

verify() {
    if [ -n "${POLICY:-}" ]; then
        bpfctl image verify --policy "$POLICY" --explain "$(by_digest)"
    else
        bpfctl image verify --key "$KEY_PUB" "$(by_digest)"
    fi
}

# A file for /etc/bpfd/programs.d of the hosts: how it gets there is your configuration management's business.
deploy() {
    cat >"$OUT/program.toml" <<EOF
version = 1

[[program]]
name = "$(basename "$IMAGE")"
image = "$(by_digest)"
EOF
    bpfctl programs check "$OUT/program.toml"
}

for step in "$@"; do
    case $step in
    compile | lint | build | push | sign | attest | verify | deploy) "$step" ;;
    *)
        echo "release.sh: no step \`$step\`" >&2
        exit 2
        ;;
    esac
done
