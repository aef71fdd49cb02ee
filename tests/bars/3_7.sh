#!/usr/bin/env bash
# Bar 7 of issue #3: the seams are real. Each claim names the tests that show it; a claim of which one filter matched no test fails.
# The build folder with the test programs is CONCLAVE_BUILD (default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
build="${CONCLAVE_BUILD:-build/release}"

# claim | test program | GoogleTest filters, separated by spaces
claims="
every layer's gradients are finite differences in fp64|nn_test|Tape.*
names, places and release of weights|nn_test|Weights.* Unit.*
weights freed after forward and filled again before backward give equal gradients|parallel_test|*MicroBatches.ReleasedAndRefilledWeights*
recompute by tensor class changes memory and not one bit of the gradients|parallel_test|*MicroBatches.RecomputeByClass*
weight gradients deferred to after the whole backward|parallel_test|*MicroBatches.Deferred*
segments of two micro-batches interleaved give the same result|parallel_test|*MicroBatches.Interleaved*
the whole model's gradients are finite differences; a packed row is its documents|parallel_test|*MicroBatch*.GradientsAre* *MicroBatches.APackedRow*
all-gather, reduce-scatter, all-reduce and all-to-all on threads with 1, 2 and 4 ranks|comm_test|Threads.TheValuesOfAllCollectives Threads.BFloat16* Meeting.*
a plain data-parallel step equals one rank's in fp64 to 1e-12|train_test|DataParallel.*
the cut into micro-batches, clipping and skipped steps|train_test|Step.*
"

claims "$claims"
verdict 7 "the seams" $?
