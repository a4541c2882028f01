# shellcheck shell=bash disable=SC2154,SC2034
# What the benches of replication share; sourced after ground.sh. Data in $data, an sshd of the bench's own on the loopback interface, an ssh
# that says what travelled, the rounds, and a run that is killed at half.
#
# MB: of files. INCREMENTS: how many, of one per cent each. `cases`, `run CASE`, `settled`, `used`, `found` are who sources it.
declare -A bytes_of
port=$((20000 + $$ % 20000))
sshd=

# Text of random letters, of which compression takes a quarter away.
letters() { head -c $(($1 / 4 * 3)) /dev/urandom | base64 -w 0; }
# Half of the bytes in files of 1 MiB, half in files of 16 KiB, 64 in a directory.
fill() {
    local n
    mkdir "$data/large"
    for n in $(seq $((MB / 2))); do
        letters 1048576 > "$data/large/$n"
        mkdir "$data/$n"
        letters 1048576 | split -b 16384 -a 2 -d - "$data/$n/file"
    done
}
# One per cent, other files each time: half of it in the large ones, in place; half in small ones.
change() {
    local n=0 at
    while [ $n -lt $(((MB + 199) / 200)) ]; do
        at=$((($1 * 7 + n * 31) % (MB / 2) + 1)) n=$((n + 1))
        letters 1048576 | dd of="$data/large/$at" conv=notrunc status=none
        letters 1048576 | split -b 16384 -a 2 -d - "$data/$at/file"
    done
}

start_sshd() {
    local key
    mkdir -p "$ground/bin" "$ground/ssh" /run/sshd
    for key in host client; do ssh-keygen -q -t ed25519 -N '' -f "$ground/ssh/$key"; done
    cp "$ground/ssh/client.pub" "$ground/ssh/authorized"
    printf '%s\n' "ListenAddress 127.0.0.1:$port" "HostKey $ground/ssh/host" "AuthorizedKeysFile $ground/ssh/authorized" \
        'PidFile none' 'StrictModes no' 'UsePAM no' 'PermitRootLogin prohibit-password' 'MaxStartups 100' > "$ground/ssh/sshd_config"
    echo "[127.0.0.1]:$port $(cat "$ground/ssh/host.pub")" > "$ground/ssh/known"
    # No connection is shared and none is quiet, whoever asks for that: each says what travelled.
    cat > "$ground/bin/ssh" << SSH
#!/bin/bash
options=()
while [[ \$# -gt 0 && \$1 == -* ]]; do
    case \$1 in
        --) shift; break ;;
        -M | -q) shift ;;
        -S) shift 2 ;;
        -o) [[ \$2 == Control* ]] || options+=("\$1" "\$2"); shift 2 ;;
        -[pilcFb]) options+=("\$1" "\$2"); shift 2 ;;
        *) options+=("\$1"); shift ;;
    esac
done
exec $(command -v ssh) -v -E $ground/ssh/said -F none -p $port -i $ground/ssh/client -o IdentitiesOnly=yes -o BatchMode=yes \
    -o GlobalKnownHostsFile=/dev/null -o UserKnownHostsFile=$ground/ssh/known "\${options[@]}" -- "\$@"
SSH
    chmod +x "$ground/bin/ssh"
    PATH=$ground/bin:$PATH
    "$(PATH=$PATH:/usr/sbin command -v sshd)" -D -f "$ground/ssh/sshd_config" 2> "$ground/ssh/log" &
    sshd=$!
    for _ in $(seq 100); do ssh root@127.0.0.1 true < /dev/null 2> /dev/null && break; sleep 0.1; done
    ssh root@127.0.0.1 true < /dev/null || { cat "$ground/ssh/log" >&2; exit 1; }
    : > "$ground/ssh/said"
}
end_sshd() { [ -z "$sshd" ] || { kill "$sshd"; wait "$sshd"; } 2> /dev/null || true; }
travelled() { awk '/Transferred: sent/ { gsub(",", ""); for (n = 1; n < NF; n++) if ($n == "sent" || $n == "received") sum += $(n + 1) } END { printf "%.0f", sum }' "$ground/ssh/said"; }
# What is run on the other side: with a state directory of its own.
remote() { echo "COWSNAP_STATE_DIR=$ground/state-there $(realpath "$COWSNAP") serve"; }

# all KIND TURN: each case once, beginning with another one each time, with cold caches.
all() {
    local at case before
    for at in "${!cases[@]}"; do
        case=${cases[$(((at + $2) % ${#cases[@]}))]}
        cold
        before=$(travelled)
        timed "$case, $1" run "$case"
        bytes_of["$case, $1"]=$((${bytes_of["$case, $1"]:-0} + $(travelled) - before))
    done
}
# A full one, then the increments; and what they took.
measure() {
    local n kind case
    echo "$MB MB in full, then $INCREMENTS increments of 1 %; $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg); medians of the increments:"
    all full 0
    for n in $(seq "$INCREMENTS"); do
        change "$n"
        settled
        all increment "$n"
    done
    for kind in full increment; do
        for case in "${cases[@]}"; do
            show "$case, $kind"
            [[ $case == plain* ]] || awk "BEGIN { printf \"%44s %9.2f MB travelled in all\n\", \"\", ${bytes_of["$case, $kind"]} / 1e6 }"
        done
    done
}
# fewer CASE OTHER: what travelled of the one to what travelled of the other.
fewer() { awk "BEGIN { printf \"%.3f\", ${bytes_of[$1]} / ${bytes_of[$2]} }"; }

# killed CASE WORDS…: runs them, with SIGKILL for the program and all that it has started on this side once half of the bytes are in the
# target's filesystem; says what was left.
killed() {
    local case=$1 half group
    shift
    found > "$ground/before"
    half=$(($(used) + MB * 1048576 / 2))
    setsid "$@" > /dev/null 2>&1 &
    group=$!
    while [ "$(used)" -lt "$half" ] && kill -0 "$group" 2> /dev/null; do sleep 0.1; done
    kill -KILL -- "-$group" 2> /dev/null || echo "$case: it had ended before"
    wait "$group" 2> /dev/null || true
    sleep 2 # The other side notices.
    echo "$case: killed; new at the target:"
    found | comm -13 "$ground/before" - | sed 's/^/    /'
}
# again CASE COMMAND…: the next run, what it sent, and what is there then.
again() {
    local case=$1 before ended=0
    shift
    before=$(travelled)
    cold
    seconds_of[$case]=
    timed "$case" "$@" || ended=$?
    awk "BEGIN { printf \"%s: the next run ended with $ended after %.1f s, %.1f MB travelled\n\", \"$case\", $(median "$case"), ($(travelled) - $before) / 1e6 }"
    found | comm -13 "$ground/before" - | sed 's/^/    there now: /'
}
