#!/usr/bin/env bash
# tools/build.sh PRESET [TARGET...]: configures build/PRESET where needed and builds the targets (all, without any).
# CONCLAVE_JOBS sets the number of compilers at once; CONCLAVE_CMAKE_ARGS adds arguments for CMake.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
source .cache/setup/env
preset=$1
shift
dir=build/$preset

# A compiler of a unity batch takes up to 2 GB.
jobs=${CONCLAVE_JOBS-}
if [ -z "$jobs" ]; then
  by_memory=$(($(awk '/^MemAvailable/ {print $2}' /proc/meminfo) / 2000000))
  jobs=$(nproc)
  ((by_memory < jobs)) && jobs=$((by_memory > 0 ? by_memory : 1))
fi

# Paths in the tree are hashed relative to it, so that a clone elsewhere finds what another has compiled.
export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1

key=$( (cat CMakePresets.json .cache/setup/env && echo "${CONCLAVE_CMAKE_ARGS-}") | sha256sum)
if [ ! -f "$dir/build.ninja" ] || [ "$(cat "$dir/configured" 2>/dev/null)" != "$key" ]; then
  # shellcheck disable=SC2086
  step "configuring $dir" "$conclave_cmake" --preset "$preset" -DCONCLAVE_PYTHON="$conclave_python" \
    -DCONCLAVE_DEPS="$conclave_deps" -DCONCLAVE_CUDA="$conclave_gpu" -DCONCLAVE_NVCC="$conclave_nvcc" ${CONCLAVE_CMAKE_ARGS-}
  echo "$key" >"$dir/configured"
fi
started=$SECONDS
ninja -C "$dir" -j "$jobs" "$@"
if ((SECONDS - started > 2)); then say "built $dir in $((SECONDS - started)) s"; fi
