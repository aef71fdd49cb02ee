# What the scripts of the bars share: sourced from the repository's root.
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo "$PWD/.venv/bin/python" || echo python3)}"
CONCLAVE_BINARY="${CONCLAVE_BINARY:-$PWD/build/release/conclave}"
export PYTHON CONCLAVE_BINARY

# verdict NUMBER WHAT STATUS: prints PASS or FAIL and leaves with STATUS.
verdict() {
  if [ "$3" = 0 ]; then echo "PASS bar 3.$1: $2"; else echo "FAIL bar 3.$1: $2"; fi
  exit "$3"
}
