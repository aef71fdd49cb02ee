#!/usr/bin/env bash
# tools/gpu.sh PART...: what is run on a GPU machine without a network: python3 there holds torch 2.11.0, and .offline/ (made by
# tools/offline.sh where there is a network) came with the tree. Each part takes less than ten minutes on 16 cores.
#   build     from nothing to the program, its tests and the benchmark of the kernels
#   cuda      the tests that run on the GPU, alone
#   test      all tests; those that need transformers too, where it is installed
#   sm80      the kernels built for sm_80 alone, compiled by the driver for this GPU, and the tests that run on the GPU
#   sanitize  the tests that run on the GPU under compute-sanitizer: memcheck, initcheck and racecheck side by side
#   bench     the memory-bound kernels beside copies of as many bytes, the experts' products beside ATen's, attention
#   peers     transformers' layers of Qwen3-30B and GPT-OSS-20B, which the bars compare with
#   bars      those of issue 5 that look at one run of Qwen3-30B's rank proxy: 5.1, 5.4, 5.5, 5.7
#   bar_5_N   another one alone; some take models: bar_5_2:deepseek_v3,kimi_k2
# Results go to $OUT, build/out where it is unset: a .log a part, kernels.jsonl, experts.jsonl, attention.jsonl, peers.jsonl, and bars.jsonl with all runs of the bars.
set -euo pipefail
cd "$(dirname "$0")/.."
export OUT=${OUT:-$PWD/build/out}
mkdir -p "$OUT"
export CONCLAVE_CMAKE_ARGS=-DCONCLAVE_BENCH=ON

device() { nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; }

# PRESET TARGETS...: without the lines of what went well.
build_quietly() {
  tools/build.sh "$@" 2>&1 | tee -a "$OUT/build.log" | grep -vE '^\[[0-9]+/[0-9]+\] (Building|Linking|Generating)' ||
    [ "${PIPESTATUS[0]}" = 0 ]
}

build() {
  tools/setup.sh | tee "$OUT/build.log"
  build_quietly release all kernels_bench experts_bench attention_bench
}

# Tests that run on each device end in /CUDA there; suites that are for the GPU alone are called …Cuda.
gpu_tests='*/CUDA*:*Cuda.*'
on_gpu() { # DIR [COMMAND BEFORE...]
  local program status=0
  for program in "$1"/tests/*_test; do
    [[ $("$program" --gtest_list_tests --gtest_filter="$gpu_tests") == *$'\n'* ]] || continue
    "${@:2}" "$program" --gtest_brief=1 --gtest_filter="$gpu_tests" || status=1
  done
  return "$status"
}

cuda() {
  { device && on_gpu build/release; } 2>&1 | tee "$OUT/cuda.log"
}

test_() {
  local without=()
  source .cache/setup/env
  "$conclave_python" -c 'import transformers, tokenizers, safetensors' 2>/dev/null || without=(-LE parity)
  CONCLAVE_TEST_JOBS=8 OMP_NUM_THREADS=2 tools/ctest.sh release "${without[@]}" 2>&1 | tee "$OUT/test.log"
}

sm80() {
  build_quietly sm80 ops_test
  { device && echo 'built for sm_80, compiled by the driver' && on_gpu build/sm80; } 2>&1 | tee "$OUT/sm80.log"
}

# A tool over all GPU tests; the allocator hands each tensor its own memory, so that what lies beside it is nobody's. Only kernels of
# ours are looked at, but for initcheck, which counts what a kernel wrote that it did not look at as never written; it is not deceived
# by the tests' filling of fresh memory either. racecheck does not know the grouped products' bulk copies and barriers.
sanitized() { # TOOL LOG
  local ours=() gpu_tests=$gpu_tests
  case $1 in
    initcheck) export CONCLAVE_POISON=off ;;
    racecheck) gpu_tests+=-*Grouped* ;;&
    *) [[ $(compute-sanitizer --help) != *--kernel-name\ * ]] || ours=(--kernel-name kernel_substring=conclave) ;;
  esac
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
  { echo "== $1" && on_gpu build/release timeout 560 compute-sanitizer --tool "$1" --error-exitcode 3 "${ours[@]}"; } >"$2" 2>&1
}

sanitize() {
  local tool pids=() status=0 logs
  logs=$(mktemp -d)
  for tool in memcheck initcheck racecheck; do
    sanitized "$tool" "$logs/$tool" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  { device && cat "$logs"/*; } >"$OUT/sanitize.log"
  rm -r "$logs"
  grep -E '^== |SUMMARY|PASSED|FAILED' "$OUT/sanitize.log"
  return "$status"
}

bench() {
  device
  build/release/bench/kernels_bench | tee "$OUT/kernels.jsonl"
  build/release/bench/experts_bench | tee "$OUT/experts.jsonl"
  build/release/bench/attention_bench | tee "$OUT/attention.jsonl"
}

peers() {
  . tests/bars/bar.sh
  device
  "$PYTHON" bench/peer_layers.py --adam --output "$OUT/peers.jsonl" qwen3_moe_30b:2 qwen3_moe_30b:4 gptoss_20b:2 2>"$OUT/peers.log" ||
    { tail -n 15 "$OUT/peers.log" && false; }
}

# Scripts of tests/bars, all of them whatever the ones before said. Their files lie in build/bars, where calls that follow find them.
bars_() { # N_M[:MODEL,...]...
  local bar models status=0
  . tests/bars/bar.sh
  for bar in "$@"; do
    [ -x "tests/bars/${bar%%:*}.sh" ] || { echo "tools/gpu.sh: there is no tests/bars/${bar%%:*}.sh" >&2; exit 2; }
    IFS=, read -ra models <<<"$([[ $bar != *:* ]] || echo "${bar#*:}")"
    OUT=$PWD/build/bars "tests/bars/${bar%%:*}.sh" "${models[@]}" 2>&1 | tee -a "$OUT/bars.log" || status=1
  done
  "$PYTHON" -c 'import json, pathlib, sys
for file in map(pathlib.Path, sys.argv[1:]): print(json.dumps({"run": file.stem} | json.loads(file.read_text())))' build/bars/*.json >"$OUT/bars.jsonl"
  return "$status"
}

(($#)) || { sed -n '2,13s/^# //p' "$0"; exit 2; }
for part in "$@"; do
  case $part in
    build | cuda | sm80 | sanitize | bench | peers) "$part" ;;
    test) test_ ;;
    bars) bars_ 5_1 5_4 5_5 5_7 ;;
    bar_*) bars_ "${part#bar_}" ;;
    *) echo "tools/gpu.sh: no part is called $part; there are build, cuda, test, sm80, sanitize, bench, peers, bars and bar_5_N" >&2; exit 2 ;;
  esac
done
