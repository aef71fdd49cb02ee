#!/usr/bin/env bash
# tools/setup.sh [--tests]: makes this machine able to build Conclave, and with --tests able to run every test.
# Installs what is missing and nothing else: Debian packages (as root), and the pinned wheels of tools/requirements*.txt
# into .venv. What it found goes into .cache/setup/env, which the other scripts read. When nothing is to do it says one
# line and returns in a tenth of a second.
#
# A python3 that already holds torch 2.11.0 is used as it is, without a .venv. Where Debian's packages cannot be installed,
# .offline/ (made by tools/offline.sh on a machine with a network) stands in for them.
# CONCLAVE_PYTHON=/path/to/python and CONCLAVE_DEPS=/prefix choose both by hand.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/step.sh
root=$PWD
state=.cache/setup
tests=0
if [ "${1:-}" = --tests ]; then tests=1; fi
mkdir -p "$state"
exec 9>"$state/lock" && flock 9 # two makes at once: the second waits

packages=(g++ ninja-build ccache git python3-venv ca-certificates libyaml-cpp-dev nlohmann-json3-dev libcli11-dev
  libpcre2-dev libxxhash-dev libgtest-dev libgmock-dev libbenchmark-dev clang-format)

# Anything that changes what this script would do changes the key.
key=$( (cat tools/setup.sh tools/cudnn_headers.sh tools/requirements*.txt && echo "$root $(command -v python3) $(command -v nvcc) ${CUDA_HOME-} ${CONCLAVE_PYTHON-} ${CONCLAVE_DEPS-}") | sha256sum)
fresh() { [ -f "$state/$1" ] && [ "$(<"$state/$1")" = "$key" ]; }
done_with() { echo "$key" >"$state/$1"; }
fail() {
  printf '%s\n' "tools/setup.sh: $*" >&2
  exit 1
}

# ── Debian packages, or the folder that stands in for them ──
missing_packages() {
  local installed package
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | grep ' installed$' || true)
  for package in "${packages[@]}"; do
    grep -q "^$package " <<<"$installed" || echo "$package"
  done
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update && apt-get -q -y install --no-install-recommends "$@"
}

find_dependencies() {
  deps=${CONCLAVE_DEPS-}
  [ -n "$deps" ] && return
  local missing=()
  command -v dpkg-query >/dev/null && mapfile -t missing < <(missing_packages)
  ((${#missing[@]} == 0)) && return
  if [ -d .offline/include ]; then
    deps=$root/.offline
    command -v g++ >/dev/null && command -v ninja >/dev/null || fail ".offline/ holds the libraries, but g++ or ninja is not there"
  elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "installing ${#missing[@]} Debian packages" install_packages "${missing[@]}"
  else
    fail "these Debian packages are missing; as root run: apt-get install -y ${missing[*]}"
  fi
}

# ── the CUDA toolkit: every library that libtorch_cuda wants of it (`cuda`), and the compiler (`nvcc`) ──
find_cuda() {
  local known lib
  cuda= nvcc=
  for nvcc in "$(command -v nvcc || true)" "${CUDA_HOME-/usr/local/cuda}/bin/nvcc" ""; do
    [ -x "$nvcc" ] && "$nvcc" --version | grep -q 'release 13\.' && break
  done
  known=$(ldconfig -p 2>/dev/null || /sbin/ldconfig -p)
  for lib in libcudart.so.13 libcupti.so.13 libcublas.so.13 libcublasLt.so.13 libcufft.so.12 libcurand.so.10 libcusparse.so.12 \
    libcusolver.so.12 libnvrtc.so.13 libcudnn.so.9 libnccl.so.2; do
    grep -q "$lib " <<<"$known" || return 0
  done
  cuda=13
}

nvcc_version() { "$nvcc" --version | grep -oE 'release 13\.[0-9]+' | cut -d' ' -f2; }

# ── Python: the one that already holds torch, or a .venv ──
holds_torch() {
  [ "$("$1" -c "import importlib.util as u, os.path as p
print(open(p.join(p.dirname(u.find_spec('torch').origin), 'version.py')).read())" 2>/dev/null |
    grep -oE "__version__ = '2\.11\.0[+']")" != "" ]
}

find_python() {
  own_venv=0
  python=${CONCLAVE_PYTHON-}
  if [ -n "$python" ]; then
    holds_torch "$python" || fail "CONCLAVE_PYTHON=$python holds no torch 2.11.0"
    return
  fi
  command -v python3 >/dev/null || fail "python3 is missing; as root run: apt-get install -y python3 python3-venv"
  python=$(python3 -c 'import sys; print(sys.executable)')
  [ "$python" != "$root/.venv/bin/python3" ] && [ "$python" != "$root/.venv/bin/python" ] && holds_torch "$python" && return
  own_venv=1
  if ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 is $(python3 -V); 3.11 or newer is needed"
    step "making .venv" python3 -m venv --clear .venv
  fi
  python=$root/.venv/bin/python
}

pip_install() { "$python" -m pip install --disable-pip-version-check --no-input "$@"; }

find_cmake() {
  local bin
  for bin in "$(dirname "$python")/cmake" "$(command -v cmake || true)"; do
    [ -x "$bin" ] && cmake=$bin && return
  done
  fail "cmake 3.25 or newer is missing; as root run: apt-get install -y cmake"
}

# Headers of cuDNN's graphs, for a build with CUDA.
find_cudnn_headers() {
  local dir
  for dir in "$deps" .offline /usr; do
    [ -f "$dir/include/cudnn_frontend.h" ] && return
  done
  step "fetching the headers of cuDNN's graphs" tools/cudnn_headers.sh "$python" "$state/cudnn_frontend"
}

setup_build() {
  local python own_venv deps cuda nvcc gpu cmake extra=tools/requirements-cpu.txt message
  find_dependencies
  find_python
  find_cuda
  if ((own_venv)); then
    [ -n "$cuda" ] && extra=tools/requirements-toolkit.txt
    step "installing libtorch 2.11.0 and CMake into .venv (about 600 MB)" \
      pip_install --no-deps --no-compile -r tools/requirements.txt -r "$extra"
    message="libtorch 2.11.0 in .venv"
  else
    message="$python holds torch 2.11.0: used as it is"
  fi
  find_cmake
  # libtorch_cuda loads where its libraries are: beside a Python's own torch, or in a toolkit.
  gpu=OFF
  if [ -z "$nvcc" ]; then
    message+="; no nvcc of CUDA 13: CPU-only build"
  elif ((own_venv)) && [ -z "$cuda" ]; then
    message+="; nvcc is there, but not all of the toolkit's libraries, cuDNN and NCCL: CPU-only build"
  else
    gpu=ON
    find_cudnn_headers
    message+="; CUDA $(nvcc_version): GPU build"
  fi
  printf '%s=%q\n' conclave_python "$python" conclave_cmake "$cmake" conclave_deps "$deps" conclave_cuda "$cuda" \
    conclave_nvcc "$nvcc" conclave_gpu "$gpu" conclave_own_venv "$own_venv" conclave_message "$message" >"$state/env.part"
  mv "$state/env.part" "$state/env"
  done_with build
}

# Without a toolkit Python's torch also needs the large wheels that requirements-cpu.txt does without.
setup_tests() {
  local python=$conclave_python
  # A test starts ranks with mpirun, and says so where it cannot be had.
  if ! command -v mpirun >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    step "installing mpirun for a test" install_packages openmpi-bin || say "mpirun cannot be installed: its test will be skipped"
  fi
  if ((conclave_own_venv)) && [ -n "$conclave_cuda" ]; then
    step "installing the reference tools for the tests" pip_install -r tools/requirements-test.txt
  elif ((conclave_own_venv)); then
    step "installing the reference tools for the tests (2 GB: Python's torch needs its CUDA wheels)" \
      pip_install -r tools/requirements-test.txt -r tools/requirements.txt
  elif ! "$python" -c 'import transformers, tokenizers, safetensors' 2>/dev/null; then
    say "$python lacks transformers, tokenizers or safetensors: the parity tests will be skipped"
  fi
  done_with tests
}

fresh build && source "$state/env" && [ -x "$conclave_python" ] && [ -x "$conclave_cmake" ] || setup_build
source "$state/env"
say "$conclave_message"
if ((tests)) && ! fresh tests; then setup_tests; fi
