#!/bin/sh
# What runs in the guest: `sh -s VERB ARGUMENT…`, with cowsnap in PATH. What the host has to know is printed, one line a thing,
# as account.rs reads it. FS is zfs (the pool tank) or btrfs (at /b); a round's datasets have its number behind their first letter. Layers
# of overlays are on an ext4 (at /e), and FS is the overlays' mode.
set -u
disks=/dev/disk/by-id

top() { if [ "$1" = zfs ]; then echo tank; else echo /b; fi; }
folder() { if [ "$1" = zfs ]; then echo "/tank/$2"; else echo "/b/$2"; fi; }
overlay() { cowsnap -q --json overlay --home /e/home "$@"; }
# The root is new at each boot, and the machine is the same.
echo 20261121202611212026112120261121 >/etc/machine-id

both() { "$1" zfs & first=$!; "$1" btrfs || exit 1; wait $first || exit 1; }
die() { echo "failed $*"; exit 1; }

digest() {
    (cd "$1" && {
        find . -type f -printf '%P %m %s\n' | LC_ALL=C sort
        find . -type f | LC_ALL=C sort | xargs -r cat
    } | sha256sum | cut -c1-16)
}

# The guids in what a command answered, in its order.
guids() {
    rest=$1 found=
    while :; do
        case $rest in
        *'"guid":"'*) rest=${rest#*\"guid\":\"}; found="$found ${rest%%\"*}" ;;
        *) break ;;
        esac
    done
    echo "$found"
}

# --- once: the filesystems, and what is received and cloned again and again

make() {
    modprobe -a btrfs fuse
    zpool create -f -o ashift=12 -o cachefile=none -m /tank tank $disks/virtio-z || die zpool create
    mkfs.btrfs -q -f $disks/virtio-b >/dev/null || die mkfs.btrfs
    mkfs.ext4 -q -F $disks/virtio-e && mkfs.ext4 -q -F $disks/virtio-depot || die mkfs.ext4
    mkdir -p /b /e /depot
    mount $disks/virtio-b /b && mount $disks/virtio-e /e && mount $disks/virtio-depot /depot || die mount
    both make_source
    mkdir -p /e/base/folder
    # Its home is there, and stays.
    overlay create first --base /e/base --at /run/first --mode kernel --owner none >/dev/null || die overlay create
    overlay destroy first >/dev/null || die overlay destroy
    for f in 1 2 3; do head -c 300000 /dev/urandom >"/e/base/f$f"; done
    echo of the base >/e/base/folder/file
    sync
    umount /depot && mount -r $disks/virtio-depot /depot || die mount
}

make_source() {
    fs=$1 t=$(top "$1")
    cowsnap -q create "$t/src" >/dev/null || die create
    at=$(folder "$fs" src)
    for f in 1 2 3; do head -c 2400000 /dev/urandom >"$at/f$f"; done
    mkdir "$at/folder"
    for f in 1 2 3 4 5 6 7 8; do echo "$f" >"$at/folder/$f"; done
    keep_stream full ''
    head -c 2400000 /dev/urandom >"$at/f2"
    rm "$at/folder/3"
    keep_stream more '--from full'
}

# The container of a snapshot, and what it is: /depot/FS-NAME.cow, /depot/FS-NAME = DIGEST GUID
keep_stream() {
    out=$(cowsnap -q --json snapshot "$t/src" --name "$1") || die snapshot "$out"
    # shellcheck disable=SC2086 # two words or none
    cowsnap -q send "$t/src@$1" $2 -o "/depot/$fs-$1.cow" 2>/dev/null || die send
    echo "$(digest "$at")$(guids "$out")" >"/depot/$fs-$1"
}

# --- after each boot

plug() {
    modprobe -a btrfs fuse
    mkdir -p /b /e /depot
    zpool import -d $disks -o cachefile=none tank || die zpool import
    mount $disks/virtio-b /b || die mount btrfs
    mount $disks/virtio-e /e || die mount ext4
    mount -r -o noload $disks/virtio-depot /depot || die mount depot
}

# --- what the power is cut in

# prepare ROUND OP…
prepare() {
    k=$1
    shift
    ops=$*
    both prepare_on
    case $ops in *layer*) for mode in kernel fuse; do make_overlay; done ;; esac
    sync
}

make_overlay() {
    out=$(overlay create "$mode$k" --base /e/base --at "/e/$mode$k" --mode "$mode" --owner none) || die overlay create "$out"
}

prepare_on() {
    fs=$1 t=$(top "$1")
    for op in $ops; do
        case $op in
        snapshot)
            cowsnap -q create "$t/s$k-a" >/dev/null && cowsnap -q create "$t/s$k-b" >/dev/null || die create
            ;;
        destroy)
            cowsnap -q create "$t/d$k" >/dev/null || die create
            for n in 1 2 3 4 5 6 7 8; do have "d$k" "x$n"; done
            for n in 1 2; do
                cowsnap -q create "$t/e$k-$n" >/dev/null || die create
                have "e$k-$n" x
                echo "have $fs e$k-$n $(digest "$(folder "$fs" "e$k-$n")") - -"
            done
            ;;
        esac
    done
}

# A snapshot to be destroyed.
have() {
    at=$(folder "$fs" "$1")
    head -c 20000 /dev/urandom >"$at/f"
    out=$(cowsnap -q --json snapshot "$t/$1" --name "$2") || die snapshot "$out"
    echo "have $fs $1@$2 $(digest "$at")$(guids "$out") -"
}

# work ROUND OP…: all at once, on both, until the power goes
work() {
    k=$1
    shift
    for op in "$@"; do
        case $op in
        layer)
            for fs in kernel fuse; do work_layer & done
            continue
            ;;
        esac
        for fs in zfs btrfs; do
            t=$(top $fs)
            "work_$op" &
        done
    done
    wait
    echo "all is done"
}

# began NAME DIGEST GUID SAID, for each that the step will have made or destroyed
began() { echo "begin $op $fs $n $*"; }

# Runs a command of cowsnap, and says when it is done, with the guids that it told.
run() {
    if out=$(cowsnap -q --json "$@" 2>&1); then
        echo "done $op $fs $n$(guids "$out")"
    else
        echo "failed $op $fs $n: $* $out"
    fi
}

work_snapshot() {
    a=s$k-a b=s$k-b n=0
    while [ $n -lt 60 ]; do
        n=$((n + 1))
        for d in $a $b; do head -c 40000 /dev/urandom >"$(folder $fs $d)/f$((n % 3))"; done
        of_a=$(digest "$(folder $fs $a)") of_b=$(digest "$(folder $fs $b)")
        case $((n % 3)) in
        0)
            began $a@$n "$of_a" - "n=$n+keep"
            run snapshot "$t/$a" --name $n --label n=$n --hold keep
            ;;
        1)
            began $a@$n "$of_a" - -
            run snapshot "$t/$a" --name $n
            ;;
        2)
            began $a@$n "$of_a" - -
            began $b@$n "$of_b" - -
            run snapshot "$t/$a" "$t/$b" --name $n
            ;;
        esac
    done
}

work_receive() {
    n=0
    while [ $n -lt 24 ]; do
        n=$((n + 1))
        d=r$k-$(((n + 1) / 2))
        if [ $((n % 2)) = 1 ]; then s='full'; else s='more'; fi
        began $d@$s "$(cat /depot/$fs-$s)" -
        slowly /depot/$fs-$s.cow | run receive "$t/$d"
    done
}

# A file as it comes over a line, so that most of the time of a receive is spent within its stream.
slowly() {
    piece=0
    while dd if="$1" bs=400000 skip=$piece count=1 status=none >/run/piece.$fs && [ -s /run/piece.$fs ]; do
        cat /run/piece.$fs
        piece=$((piece + 1))
        sleep 0.3
    done
}

work_destroy() {
    n=0
    for victim in 1 2 3 e1 4 5 6 e2 7 8; do
        n=$((n + 1))
        case $victim in
        e*)
            d=e$k-${victim#e}
            began "$d@x" - - -
            began "$d" - - -
            run destroy --snapshots "$t/$d"
            ;;
        *)
            began "d$k@x$victim" - - -
            run destroy "$t/d$k@x$victim"
            ;;
        esac
    done
}

work_clone() {
    n=0
    digest=$(cut -d ' ' -f 1 /depot/$fs-full)
    while [ $n -lt 30 ]; do
        n=$((n + 1))
        began c$k-$n "$digest" - -
        run clone "$t/src@full" "$t/c$k-$n"
    done
}

# A full one and an increment to one target after another, each over a line of a megabyte a second.
work_replicate() {
    n=0
    if [ $fs = btrfs ]; then watch_checkpoints & watcher=$!; fi
    while [ $n -lt 24 ]; do
        n=$((n + 1))
        d=p$k-$(((n + 1) / 2))
        if [ $((n % 2)) = 1 ]; then s='full'; else s='more'; fi
        began $d@$s "$(cat /depot/$fs-$s)" '?'
        replicate $d $s >/run/replicated.$fs 2>&1 && echo "done $op $fs $n" || echo "failed $op $fs $n $(cat /run/replicated.$fs)"
    done
    if [ $fs = btrfs ]; then kill $watcher; fi
}

# Says of which receives a checkpoint is on disk: of those that have written a second one, the first was.
watch_checkpoints() {
    while sleep 0.1; do
        for dir in /b/.cowsnap/staging/*; do
            number=$(jq -r .number "$dir/checkpoint" 2>/dev/null) && [ "$number" -ge 2 ] 2>/dev/null || continue
            jq -r '"checkpoint btrfs \(.key)@\(.name)"' "$dir/intent" 2>/dev/null
        done
    done
}

replicate() { cowsnap -q --json replicate --bandwidth 1M --checkpoint 1M "$t/src@$2" "$t/$1"; }

# What a suite of tests does, again and again: a file that is new, one of the base in part, one less.
work_layer() {
    n=0 o=$fs$k at=/e/$fs$k
    while [ $n -lt 20 ]; do
        n=$((n + 1))
        head -c 40000 /dev/urandom >"$at/n$n"
        head -c 5000 /dev/urandom | dd of="$at/f$((n % 3 + 1))" bs=5000 seek=$n conv=notrunc status=none
        if [ $n -gt 2 ]; then rm "$at/n$((n - 2))"; fi
        began "$o@$n" "$(digest "$at")" - -
        if out=$(overlay commit "$o" "$n" 2>&1); then echo "done $op $fs $n"; else echo "failed $op $fs $n $out"; fi
    done
}

# --- what is there

# look ROUND: by the filesystem's own tools with its content (there), and as cowsnap lists it (listed, partial)
look() {
    k=$1
    both look_at
    for fs in kernel fuse; do look_at_layers; done
}

# Each layer's content is that of an overlay upon it; and all of them are as their manifests say.
look_at_layers() {
    for name in $(overlay list --layers | jq -r '.layers[].label' | grep "^$fs$k@"); do
        out=$(overlay create look --base "$name" --at /run/look-at --mode "$fs" --owner none 2>&1) || { echo "failed look $name $out"; continue; }
        echo "there $fs $name $(digest /run/look-at)"
        echo "listed $fs $name - -"
        out=$(overlay destroy look 2>&1) || echo "failed destroy $name $out"
    done
    out=$(overlay verify --all 2>&1) || echo "failed verify $out"
}

look_at() {
    fs=$1 t=$(top "$1") all=
    for name in $("names_on_$fs"); do
        case $name in
        *@*) all="$all $t/${name%@*}" ;;
        c* | e*) echo "there $fs $name $(digest "$(folder "$fs" "$name")")"; continue ;;
        *)
            # Of a receive that was cut off before it had anything, btrfs keeps a folder and no dataset.
            case $(cowsnap -q --json list "$t/$name" 2>&1) in
            *"does not exist"*) ;;
            *) all="$all $t/$name" ;;
            esac
            continue
            ;;
        esac
        echo "there $fs $name $(content_on_"$fs" "${name%@*}" "${name#*@}")"
    done
    all=$(echo "$all" | tr ' ' '\n' | sort -u)
    [ -z "$all" ] && return 0
    # shellcheck disable=SC2086 # names without spaces
    out=$(cowsnap -q --json list $all 2>&1) || { echo "failed list $fs $out"; return 0; }
    echo "$out" | jq -r --arg fs "$fs" --arg kept "$(checkpoints)" '.datasets[] | (.dataset | sub("^(tank|/b)/"; "")) as $d
        | (.snapshots[] | "listed \($fs) \($d)@\(.name) \(.guid) \([(.labels | to_entries[] | "\(.key)=\(.value)"), .holds[]] | join("+") | if . == "" then "-" else . end)"),
          (.partials[] | "partial \($fs) \($d)@\(.name) \(.token)",
            (select(.token as $token | $kept | split("\n") | index($token)) | "kept \($fs) \($d)@\(.name) \(.bytes // 0)"))'
}

# The tokens of what btrfs has a checkpoint of.
checkpoints() { (cd /b/.cowsnap/staging 2>/dev/null && for at in */checkpoint; do [ ! -e "$at" ] || echo "${at%/*}"; done); }

names_on_zfs() { zfs list -H -o name -t filesystem,snapshot -r tank | sed -n "s,^tank/\([a-z]${k}[-@].*\|[a-z]${k}\)\$,\1,p" | grep -v %; }
content_on_zfs() {
    mkdir -p /run/look && mount -t zfs "tank/$1@$2" /run/look && digest /run/look
    umount /run/look
}

names_on_btrfs() {
    (cd /b && ls -d [a-z]"$k" [a-z]"$k"-* 2>/dev/null)
    (cd /b/.cowsnap/datasets && ls -d [a-z]"$k"/snap/[!%]* [a-z]"$k"-*/snap/[!%]* 2>/dev/null) | sed 's,/snap/,@,'
    (cd /b/.cowsnap/datasets && ls -d [rp]"$k"-* 2>/dev/null)
    return 0
}
content_on_btrfs() { digest "/b/.cowsnap/datasets/$1/snap/$2"; }

# --- the interrupted work once more

# again OP FS NAME [TOKEN]: the same command; with a TOKEN, what is lacking
again() {
    op=$1 fs=$2 name=$3 token=${4:-} t=$(top "$2") n=0
    case $op in
    replicate)
        out=$(replicate "${name%@*}" "${name#*@}" 2>&1) || { echo "failed $op $fs $out"; return 0; }
        echo "$out" | jq -r --arg fs "$fs" '.replicated[].moved[] | "moved \($fs) \(.snapshot): \(.resumed_bytes) of \(.stream_bytes) bytes were there"'
        ;;
    # What was not committed is lost with the machine: the overlay is as its last layer, or reaped.
    layer)
        o=${name%@*}
        last=$(overlay list --layers | jq -r '.layers[].label' | grep "^$o@" | sort -t @ -k 2n | tail -1)
        if overlay list | jq -e --arg o "$o" 'any(.overlays[]; .name == $o)' >/dev/null; then
            out=$(overlay reset "$o" 2>&1) || { echo "failed reset $name $out"; return 0; }
        else
            out=$(overlay create "$o" --base "${last:-/e/base}" --at "/e/$o" --mode "$fs" --owner none 2>&1) ||
                { echo "failed create $name $out"; return 0; }
        fi
        echo again >"/e/$o/again"
        out=$(overlay commit "${name%@*}" "${name#*@}" 2>&1) || echo "failed commit $name $out"
        ;;
    snapshot) run snapshot "$t/${name%@*}" --name "${name#*@}" ;;
    destroy) case $name in *@*) run destroy "$t/$name" ;; *) run destroy --snapshots "$t/$name" ;; esac ;;
    clone) run clone "$t/src@full" "$t/$name" ;;
    receive)
        if [ -n "$token" ]; then
            cowsnap -q send "$t/src@${name#*@}" --resume "$token" 2>/run/sent | cowsnap -q receive "$t/${name%@*}" >/run/received 2>&1 &&
                echo "done receive $fs $n" || echo "failed receive $fs $n: $(cat /run/sent /run/received)"
        else
            run receive "$t/${name%@*}" "/depot/$fs-${name#*@}.cow"
        fi
        ;;
    esac
}

# sweep: what doctor finds, whether it puts it right, and what is left then
sweep() {
    cowsnap -q doctor --fix /b 2>&1 | sed 's/^/swept /'
    left=$(cowsnap -q doctor /b 2>&1) || echo "left doctor $left"
    ls -A /b/.cowsnap/staging | sed 's/^/left staging /'
    find /b/.cowsnap -maxdepth 4 -name '%*' | sed 's/^/left staged /'
    zfs list -H -o name -t all -r tank | grep % | sed 's/^/left /'
    # Of the marks of all that was replicated, the newest's.
    replicas=$(zfs list -H -o name -r tank | grep '^tank/p'; cd /b/.cowsnap/datasets && ls -d p* 2>/dev/null | sed 's,^,/b/,')
    # shellcheck disable=SC2086 # names without spaces
    [ -z "$replicas" ] || cowsnap -q --json list $replicas | jq -r '.datasets[]
        | select(.snapshots | length > 0) | select([.snapshots[] | .holds | length] as $n | any($n[:-1][]; . > 0) or $n[-1] != 1)
        | "left holds \(.dataset) \([.snapshots[] | .holds])"'
    overlay reap >/dev/null || echo "left reap"
    findmnt -rn -o TARGET | grep '^/run/look-at' | sed 's/^/left mount /'
    findmnt -rn -t zfs,btrfs -o TARGET | grep -vE '^/(b|tank|tank/[a-z0-9-]+)$' | sed 's/^/left mount /'
    return 0
}

# Whether all that the filesystems hold is what they wrote.
scrub() {
    zpool scrub -w tank || die scrub
    zpool status -x tank | grep -q 'is healthy' || die "$(zpool status tank)"
    btrfs scrub start -B /b >/run/scrub 2>&1 || die "$(cat /run/scrub)"
    grep -q 'no errors found' /run/scrub || die "$(cat /run/scrub)"
    # The layers stay; an overlay that can not be destroyed was not whole.
    out=$(overlay destroy --all 2>&1) || die "$out"
    [ -z "$(findmnt -rn -t overlay,fuse)" ] || die "$(findmnt -rn -t overlay,fuse)"
    umount /e && e2fsck -fn $disks/virtio-e >/run/fsck 2>&1 || die "$(cat /run/fsck)"
}

"$@"
