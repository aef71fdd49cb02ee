#!/usr/bin/env bash
# Bar 3 of issue #6: 2, 4 and 8 NCCL ranks on one GPU in bf16, FSDP and HSDP times expert parallelism: fifty losses as close to one
# rank's as three times the difference between one-rank runs with other micro-batch cuts; with random delays on each stream and slots
# filled with NaN once they are given back, ten steps bit for bit the same. Before it the collectives by themselves, and one process:
# lanes, slots and delays on one GPU without NCCL. RANKS: which (all).
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 6.3
build="${CONCLAVE_BUILD:-build/release}"
export CONCLAVE_RANK_CASES="${CONCLAVE_RANK_CASES:-$PWD/$build/tests/rank_cases}"
status=0
run_tests comm_test 'LaneCuda.*' && run_tests parallel_test '*Overlap*' || status=1
# shellcheck disable=SC2086
"$PYTHON" tests/dist/nccl_test.py ${RANKS-2 4 8} || status=1
# shellcheck disable=SC2086
"$PYTHON" tests/dist/nccl_pretrain_test.py ${RANKS-} || status=1
verdict 6.3 "NCCL ranks on one GPU against one rank, and against themselves with delays and poison" $status
