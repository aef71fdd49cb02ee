#!/usr/bin/env bash
# Bar 7 of issue #5: from launch to the end of the first optimizer step of Qwen3-30B's 48-layer rank proxy in under 15 s, at the second
# launch. Half a minute of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.7
figures start 15 "$CONCLAVE_BINARY" benchmark configs/benchmark/qwen3_moe_30b.yaml --set device=cuda --set batch.rows=16 --set warmup=0 --set steps=1
verdict 5.7 "launch to the end of the first step" $?
