#!/usr/bin/env bash
# Bar 3 of issue #5: the fused first product of the experts against gather + _grouped_mm + a compiled SwiGLU, at least 1.3 x at
# Qwen3's rank shapes, 1.15 x at GPT-OSS's, 1.1 x at DeepSeek's, in random order in one call. Needs build/release/bench/experts_bench
# (tools/gpu.sh build) and a Hopper GPU. Exit status 0, 1, or 77 where there is no GPU.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

"$PYTHON" bench/peer_experts.py
status=$?
[ $status = 77 ] && exit 77
verdict 5.3 "the experts' first product beside torch's separate kernels" $status
