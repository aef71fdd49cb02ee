# Sourced by the scripts beside it: step "what" command... runs a long command with its output in a log, shows that time
# passes (a living line on a terminal, a line every 20 s elsewhere), and on failure prints the end of the log.
# say prints one line that stands out.

say() { printf '%s\n' "── $*"; }

step() {
  local what=$1 started=$SECONDS status=0 log pid shown
  shift
  mkdir -p .cache/log
  log=.cache/log/$(printf '%s' "$what" | tr -c 'a-zA-Z0-9\n' '_').log
  "$@" >"$log" 2>&1 &
  pid=$!
  shown=$SECONDS
  while kill -0 "$pid" 2>/dev/null; do
    if [ -t 1 ]; then
      printf '\r── %s … %d s\033[K' "$what" $((SECONDS - started))
    elif ((SECONDS - shown >= 20)); then
      say "$what … $((SECONDS - started)) s"
      shown=$SECONDS
    fi
    sleep 0.2
  done
  wait "$pid" || status=$?
  [ -t 1 ] && printf '\r\033[K'
  if ((status == 0)); then
    say "$what: done in $((SECONDS - started)) s"
  else
    tail -n 30 "$log" >&2
    printf '%s\n' "$what failed with status $status; the whole output is in $log" >&2
  fi
  return "$status"
}
