# An S3 server of this machine (s3s-fs's own program, on the loopback interface), for benches that are sourced with this; after ground.sh. $root: its
# buckets, directories; AWS_ENDPOINT_URL and the keys are set. `asked` says how many requests there were since it was called last, and how many bytes came with them.

root=$ground/s3
mkdir "$root"
# Nothing that is set up on this machine.
unset "${!AWS_@}"
export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null no_proxy=127.0.0.1 NO_PROXY=127.0.0.1
export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=bench-secret AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
port=$((20000 + RANDOM % 20000))
export AWS_ENDPOINT_URL=http://127.0.0.1:$port
NO_COLOR=1 RUST_LOG=s3s::service=debug s3s-fs --host 127.0.0.1 --port "$port" --access-key bench --secret-key bench-secret "$root" > "$ground/s3.log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true; wait "$server" 2> /dev/null || true; leave' EXIT
curl -s --retry 50 --retry-delay 1 --retry-connrefused -o "$ground/answer" "$AWS_ENDPOINT_URL"

# Each request is a line of the server's log.
seen=0
asked() {
    local from=$((seen + 1))
    seen=$(wc -l < "$ground/s3.log")
    sed -n "$from,${seen}p" "$ground/s3.log" | python3 -c '
import re, sys
n = sent = 0
for line in sys.stdin:
    if "s3s::service: req: Request" in line:
        n += 1
        length = re.search(r"\"content-length\": \"(\d+)\"", line)
        sent += int(length.group(1)) if length else 0
print(n, sent)'
}

# changed DIR TIMES: 64 KiB anew so many times, anywhere in its files.
changed() {
    python3 - "$@" <<'EOF'
import os, random, sys
files = sorted(os.listdir(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    path = os.path.join(sys.argv[1], random.choice(files))
    with open(path, "r+b") as file:
        file.seek(random.randrange(os.path.getsize(path) // 65536) * 65536)
        file.write(os.urandom(65536))
EOF
}
