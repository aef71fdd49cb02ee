#!/usr/bin/env bash
# Bar 1 of issue 3: from a clean clone `make demo`, then `make test`; a second `make demo` starts training within 2 s; the release
# build alone, from nothing, in at most 8 minutes on 2 cores. Prints the times.
#   tests/bars/3_1.sh          in a clone of HEAD on this machine
#   tests/bars/3_1.sh chroot   the same in a fresh debootstrap of Debian 12 (root; sources and certificates are this machine's)
# BAR_FOLDER says where (default: a folder under /tmp, deleted at the end); BAR_TREE=1 takes the working tree instead of HEAD.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${BAR_FOLDER:-$(mktemp -d /tmp/conclave_bar.XXXXXX)}
log=${BAR_LOG:-$folder.log}

# Everything that is measured, run in the tree. A line "BAR what seconds" each.
read -r -d '' measured <<'INNER' || true
set -euo pipefail
timed() {
  local what=$1 start=$EPOCHREALTIME status=0
  shift
  "$@" || status=$?
  awk -v a="$start" -v b="$EPOCHREALTIME" -v w="$what" -v s="$status" 'BEGIN { printf "BAR %s: %.1f s, status %d\n", w, b - a, s }'
  return $status
}
# From `make demo` to the first step that a new run has written down.
second_demo() {
  local start=$EPOCHREALTIME run pid
  run=$(sed -n 's/^output: *\([^ #]*\).*/\1/p' configs/pretrain/demo.yaml)
  setsid make demo >second.log 2>&1 &
  pid=$!
  while [ -f "$run/summary.json" ] || [ ! -s "$run/metrics.jsonl" ]; do
    kill -0 $pid 2>/dev/null || { cat second.log; return 1; }
    sleep 0.02
  done
  awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "BAR second make demo to its first step: %.1f s\n", b - a }'
  kill -TERM -- -$pid
  wait $pid || true
}
export CCACHE_DISABLE=1
timed "make demo" make demo
second_demo
timed "make test" make test
rm -rf build/release
timed "release build alone" make build
INNER

put_tree() { # FOLDER
  if [ -n "${BAR_TREE-}" ]; then
    mkdir -p "$1"
    (cd "$root" && git ls-files -z -co --exclude-standard | tar --null --ignore-failed-read -cT -) | tar -xC "$1"
  else
    git clone -q --no-local "$root" "$1"
  fi
}

on_this_machine() {
  put_tree "$folder/conclave"
  (cd "$folder/conclave" && bash -c "$measured") 2>&1 | tee "$log"
}

leave_chroot() { mountpoint -q "$folder/proc" && umount "$folder/proc"; mountpoint -q "$folder/dev" && umount "$folder/dev"; true; }

in_chroot() {
  local mirror certificates=/usr/local/share/ca-certificates
  mirror=$({ grep -rhoE '^(URIs: *|deb )https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d/debian* 2>/dev/null || true; } |
    grep -oE 'https?://.*' | head -n 1)
  [ -n "$mirror" ] || { echo "no mirror found in /etc/apt"; return 1; }
  mkdir -p "$folder"
  debootstrap --variant=minbase --include=ca-certificates,make,git,python3,python3-venv bookworm "$folder" "$mirror"
  cp /etc/apt/sources.list.d/debian* "$folder/etc/apt/sources.list.d/" 2>/dev/null && rm -f "$folder/etc/apt/sources.list"
  cp /etc/resolv.conf "$folder/etc/resolv.conf"
  if [ -d $certificates ]; then
    mkdir -p "$folder$certificates"
    find $certificates -name '*.crt' -exec cp {} "$folder$certificates/" \;
  fi
  trap leave_chroot EXIT
  mount -t proc proc "$folder/proc"
  mount --bind /dev "$folder/dev"
  chroot "$folder" update-ca-certificates
  put_tree "$folder/root/conclave"
  # Only what a login there would have, and pip told of the machine's own certificates.
  env -i HOME=/root TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    chroot "$folder" bash -c "cd /root/conclave && { $measured"$'\n}' 2>&1 | tee "$log"
  leave_chroot
}

where=on_this_machine
[ "${1:-}" != chroot ] || where=in_chroot
set +e # and a subshell: on the left of || a function would go on after a failure
(set -e && $where)
status=$?
set -e
echo
grep '^BAR ' "$log" || true
awk -F': ' '
  /^BAR / { seen++; seconds = $2 + 0 }
  /^BAR .*, status [1-9]/ || (/^BAR second/ && seconds > 2) || (/^BAR release/ && seconds > 480) { print "missed: " $0; bad = 1 }
  END { exit bad || seen != 4 }' "$log" || status=1
[ -n "${BAR_FOLDER-}" ] || rm -rf --one-file-system "$folder"
echo "the whole output is in $log"
. "$root/tests/bars/bar.sh"
verdict 1 "two commands" $status
