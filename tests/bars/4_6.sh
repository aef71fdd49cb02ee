#!/usr/bin/env bash
# Bar 6 of issue #4: a packed row's loss and gradients are those of its documents run alone, within 1e-10 in fp64: attention layers of
# every kind (grouped queries, windows, sinks, latents) with documents of 1, 2, w−1, w, w+1 and more tokens for windows w of 5 and 128;
# whole models of three families. Prints the largest deviations. Needs the test programs (CONCLAVE_BUILD, default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

claims "
attention layers: outputs, gradients of inputs and weights|nn_test|AttentionLayer.APackedRowIsItsDocumentsAlone
whole models: loss, every gradient, multi-token prediction|parallel_test|*MicroBatches.APackedRowIsItsDocumentsAlone*
documents see nothing of each other, rotary positions restart|nn_test|AttentionLayer.Trap11*
targets of multi-token prediction stay within a document|parallel_test|NextToken.* Mtp.DocumentsOfOneToken*
rows hold every token once and no padding|data_test|PackedDataset.*
"
verdict 4.6 "packed rows are their documents" $?
