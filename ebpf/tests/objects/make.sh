#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
# Remakes the objects beside their sources. Needs clang 14 (other versions give other bytes) and libbpf's headers.
# Usage: make.sh [DIRECTORY], by default the sources' own.
set -eu
cd "$(dirname "$0")"
out=${1:-.}
include="-I/usr/include/$(uname -m)-linux-gnu"
for source in *.c; do
	name=${source%.c}
	flags="-O2 -g -target bpf"
	case $name in
	no_btf) flags="-O2 -target bpf" ;;
	big_endian) flags="-O2 -g -target bpfeb" ;;
	esac
	# shellcheck disable=SC2086
	${CLANG:-clang} $flags -Wall -Wno-unused-function $include -fdebug-compilation-dir=. -c "$source" -o "$out/$name.o"
	${STRIP:-llvm-strip-14} -g "$out/$name.o"
done
