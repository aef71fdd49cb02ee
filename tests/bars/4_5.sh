#!/usr/bin/env bash
# Bar 5 of issue #4: properties of routing. Thousands of random cases against a choice made by sorting, and what they contained (experts
# without a token, all tokens to one, ties, top_k = experts, one token, negative biased scores in kept groups); whole models with idle
# experts; the losses' gradients whatever the cut of the global batch. Needs the test programs (CONCLAVE_BUILD, default build/release).
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh

claims "
random cases equal a choice made by sorting|ops_test|RoutingProperties.*
values and gradients equal ATen's|ops_test|Route.EqualsAten*
ties go to the lower id|ops_test|Route.PrefersTheLowerIdOnATie
an expert without a token and one with all|ops_test|Route.AnExpertWithoutATokenAndOneWithAll
top_k = experts|ops_test|Route.AllExpertsChosen*
negative biased scores in kept groups|ops_test|Route.TrapMasked*
negative biased scores in a whole model|parallel_test|DeepseekV3.TrapMasked*
experts without a token: their products and gradients|nn_test|Tape.*IdleExpert
experts without a token: a whole model, on memory that is not a number|parallel_test|Experts.Trap6*
the losses equal their formulas; cut into micro-batches they add up|ops_test|BalanceLoss.* ZLoss.* BalanceProbs.*
gradients of the auxiliary, sequence and z-loss: any cut into micro-batches and ranks, with recompute|train_test|RouterLosses.*
loads are counted once, correction biases follow those of the whole global batch|train_test|Loads.* CorrectionBias.*
replayed ids, the balanced and the uniform gate|parallel_test|Routing.*
"
verdict 4.5 "properties of routing" $?
