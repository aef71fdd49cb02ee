// ops/fixed_exchange.h on CUDA; operands were checked but for the values of ids. Private to ops/.
#pragma once
#include "ops/fixed_exchange.h"

namespace conclave::ops::cuda {

SentLayout sent_layout(const at::Tensor& ids, int64_t experts, int64_t ranks, int64_t capacity,
                       const at::Tensor& needed);
ArrivedLayout arrived_layout(const at::Tensor& message, int64_t local, int64_t ranks, int64_t room,
                             const at::Tensor& needed);
at::Tensor take_or_zero(const at::Tensor& x, const at::Tensor& index);
at::Tensor sum_of_rows(const at::Tensor& x, const at::Tensor& index);
at::Tensor element_or_zero(const at::Tensor& x, const at::Tensor& index);

}  // namespace conclave::ops::cuda
