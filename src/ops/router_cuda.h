// ops/router.h and ops/balance.h on CUDA, fp32; operands were checked by their functions. Private
// to ops/.
//
// The choice and its gradient are one kernel each (kernels/route.h): at most 512 experts, 64 a
// token, 32 groups. The losses are ATen's operators, a few a group of tokens. No host sync.
#pragma once
#include "ops/balance.h"

namespace conclave::ops::cuda {

Routing route(const at::Tensor& logits, const at::Tensor& correction_bias,
              const Selection& selection, const at::Tensor& given);
at::Tensor route_backward(const at::Tensor& dweights, const at::Tensor& dprobs,
                          const at::Tensor& logits, const at::Tensor& ids,
                          const Selection& selection);
at::Tensor balanced_ids(int64_t tokens, int64_t top_k, int64_t experts, at::Device device);
at::Tensor uniform_ids(int64_t tokens, int64_t top_k, int64_t experts, uint64_t seed,
                       uint64_t stream, at::Device device);
at::Tensor loads_of(const at::Tensor& ids, int64_t experts);

at::Tensor balance_probs(const at::Tensor& logits, Scoring scoring);
BalanceLoss balance_loss(const at::Tensor& probs, const at::Tensor& ids,
                         std::span<const int64_t> offsets, double coef, GroupWeight weight);
ZLoss z_loss(const at::Tensor& logits, double coef);
void correct_bias_(at::Tensor bias, const at::Tensor& loads, double rate);

}  // namespace conclave::ops::cuda
