#!/usr/bin/env bash
# Bar 9 of issue #5: tiny models of all five families on the GPU against the CPU: fp32 (TF32 off) within 1e-5 of the largest element,
# bf16 within 3 times the CPU's own bf16 error and one rounding, against fp64; logits, losses and every gradient, then three optimizer
# steps; and, where transformers is installed, bf16 errors beside transformers' own on the GPU. Three minutes, most of them of the CPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.9

status=0
build/release/tests/parallel_test --gtest_brief=1 --gtest_filter='*OnGpu*/CUDA*' || status=1
build/release/tests/train_test --gtest_brief=1 --gtest_filter='*ThreeAreTheCpus*/CUDA*:*FollowsFp32*/CUDA*' || status=1
"$PYTHON" tests/bars/gpu_reference.py || { code=$?; [ $code = 77 ] || status=1; }
verdict 5.9 "the GPU against the CPU" $status
