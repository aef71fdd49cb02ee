#!/usr/bin/env bash
# Bar 8 of issue #5: in deterministic mode two runs of 20 steps are bitwise equal (the tiny models of all five families, weights, moments
# and losses), and the mode costs at most 5 % of a step (8 layers of Qwen3-30B's rank proxy). One minute of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.8

status=0
build/release/tests/train_test --gtest_brief=1 --gtest_filter='*TwentyTwiceAreTheSameBits*/CUDA*' || status=1
run=(gate=real precision=bf16 batch.rows=16 layers=8 warmup=3 steps=10)
for mode in false true; do
  measure "deterministic_$mode" qwen3_moe_30b "${run[@]}" "deterministic=$mode" || verdict 5.8 "deterministic mode" 1
done
"$PYTHON" - "$OUT/deterministic_false.json" "$OUT/deterministic_true.json" <<'END' || status=1
import json, sys
plain, mode = (json.load(open(f))["seconds_per_step"] for f in sys.argv[1:])
print(f"a step takes {plain:.4f} s, in deterministic mode {mode:.4f} s: {100 * (mode / plain - 1):+.1f} %")
sys.exit(mode > 1.05 * plain)
END
verdict 5.8 "twenty steps twice, and what the mode costs" $status
