#!/bin/bash
# Compiles prototypes.c against the headers of the OpenZFS that is installed (libzfslinux-dev): nothing is run or left.
# usage: vm-tests/prototypes.sh [INCLUDE…]     the folders that hold libzfs_core.h, sys/nvpair.h and libspl's headers
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

if [ $# -eq 0 ]; then
    set -- /usr/include/libzfs /usr/include/libspl
fi
[ -r "$1/libzfs_core.h" ] || {
    echo "prototypes: no $1/libzfs_core.h: apt-get install libzfslinux-dev" >&2
    exit 2
}

# C can not ask whether a header has an enum's constant.
mapfile -t errors < <(grep -ohE '\bZFS_ERR_[A-Z0-9_]+' "$1/sys/fs/zfs.h" | sort -u)

cc -std=gnu11 -D_GNU_SOURCE -fsyntax-only "${@/#/-I}" "${errors[@]/#/-DHAVE_}" "$here/prototypes.c"

unknown=0
for error in "${errors[@]}"; do
    grep -q "\bHAVE_$error\b" "$here/prototypes.c" || { echo "prototypes: $error has no meaning in src/sys/lzc/errno.rs"; unknown=1; }
done
checked=$(grep -cE '^(SAME|IS)\(' "$here/prototypes.c")
echo "prototypes: $checked declarations agree with $1 (${#errors[@]} errors)"
exit $unknown
