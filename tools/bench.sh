#!/usr/bin/env bash
# tools/bench.sh [NAME]: `make bench`. Builds the programs of bench/*.cpp in release and runs them one after the other, then
# bench/*.py, which time the program beside reference tools. Nothing else should run on the machine meanwhile.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
only=${1:-}
tools/setup.sh --tests
source .cache/setup/env
CONCLAVE_CMAKE_ARGS=-DCONCLAVE_BENCH=ON tools/build.sh release conclave bench
export CONCLAVE_BINARY=$PWD/build/release/conclave CONCLAVE_PYTHON=$conclave_python
shopt -s nullglob
for source in bench/*.cpp bench/*.py; do
  name=$(basename "${source%.*}")
  name=${name%_bench}
  [ -z "$only" ] || [ "$only" = "$name" ] || continue
  program=build/release/bench/${name}_bench
  say "$source"
  if [ "${source##*.}" = py ]; then
    "$conclave_python" "$source" || [ $? = 77 ]
  elif [ -x "$program" ]; then
    "$program" || [ $? = 77 ] # 77, here and above: it said why it cannot run here
  else
    echo "skipped: built without CUDA"
  fi
done
