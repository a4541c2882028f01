# What the benches stand on; sourced, not run. Needs root, btrfs-progs, loop devices.
#
# ROUNDS: how often each case runs (3; the median counts). TOLERANCE: by what factor a bar may be missed on a noisy machine (1.0).
# COWSNAP: the program (target/release/cowsnap). TMPDIR: where images are made; on the disk that is to be measured.

set -euo pipefail
ROUNDS=${ROUNDS:-3}
TOLERANCE=${TOLERANCE:-1.0}
COWSNAP=${COWSNAP:-$(dirname "$0")/../target/release/cowsnap}
ground=$(mktemp -d "${TMPDIR:-/tmp}/cowsnap-bench-XXXXXX")
export COWSNAP_STATE_DIR=$ground/state
missed=0
declare -A seconds_of

[ -x "$COWSNAP" ] || { echo "no $COWSNAP: cargo build --release" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "needs root, for mounts and send" >&2; exit 6; }

leave() {
    for mount in "$ground"/mnt*; do
        [ -d "$mount" ] && { umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true; }
    done
    rm -rf "$ground"
}
trap leave EXIT
trap 'exit 5' INT TERM HUP

# make_btrfs NAME SIZE: a filesystem on a sparse image, with direct I/O where the disk can, mounted on $ground/mntNAME.
make_btrfs() {
    truncate -s "$2" "$ground/image$1"
    mkfs.btrfs -q -f "$ground/image$1" > /dev/null 2>&1
    mkdir "$ground/mnt$1"
    mount -o loop,noatime "$ground/image$1" "$ground/mnt$1"
    losetup --direct-io=on "$(findmnt -no SOURCE "$ground/mnt$1")" 2>/dev/null || true
}

cold() { sync; echo 3 > /proc/sys/vm/drop_caches; }

# timed CASE COMMAND…: runs it and keeps its seconds.
timed() {
    local case=$1 start end
    shift
    start=$(date +%s%N)
    "$@"
    end=$(date +%s%N)
    seconds_of[$case]+="$(awk "BEGIN { print ($end - $start) / 1e9 }") "
}

median() { tr ' ' '\n' <<< "${seconds_of[$1]}" | sed '/^$/d' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# show CASE: its line of the table.
show() { printf '%-44s %9.4f s   (%s)\n' "$1" "$(median "$1")" "$(xargs printf '%.4f ' <<< "${seconds_of[$1]}")"; }

# bar TEXT OURS THEIRS FACTOR: our median must be at most FACTOR times theirs.
bar() {
    local ratio
    ratio=$(awk "BEGIN { printf \"%.3f\", $(median "$2") / $(median "$3") }")
    below "$1: $2 / $3" "$ratio" "$4"
}

# below TEXT VALUE LIMIT: says whether the bar is met, and remembers if not.
below() {
    if awk "BEGIN { exit !($2 <= $3 * $TOLERANCE) }"; then
        printf 'met     %s = %s (at most %s)\n' "$1" "$2" "$3"
    else
        printf 'MISSED  %s = %s (at most %s)\n' "$1" "$2" "$3"
        missed=1
    fi
}
