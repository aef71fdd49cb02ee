#include "ops/fixed_exchange.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/fixed_exchange_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

at::Tensor no_rows(at::IntArrayRef shape) { return at::full(shape, -1, at::kInt); }

void raise(const at::Tensor& needed, int64_t which, int64_t rows) {
  int64_t& most = needed.data_ptr<int64_t>()[which];
  most = std::max(most, rows);
}

SentLayout host_sent_layout(const at::Tensor& ids, int64_t experts, int64_t ranks, int64_t capacity,
                            const at::Tensor& needed) {
  const int64_t tokens = ids.size(0), top_k = ids.size(1), local = experts / ranks,
                fan = std::min(top_k, ranks);
  const int64_t* id = ids.const_data_ptr<int64_t>();
  SentLayout out{no_rows({ranks * capacity}), no_rows({tokens, fan}), no_rows({tokens, top_k}),
                 no_rows({ranks * (1 + capacity), top_k})};
  int32_t *token = out.token.data_ptr<int32_t>(), *rows = out.rows.data_ptr<int32_t>(),
          *slot = out.slot.data_ptr<int32_t>(), *message = out.message.data_ptr<int32_t>();
  const auto r_ = static_cast<size_t>(ranks);
  std::vector<int64_t> count(r_), pairs(r_), row_at(r_);
  std::vector<char> needs(r_);
  for (int64_t t = 0; t < tokens; ++t) {
    std::fill(needs.begin(), needs.end(), 0);
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      TORCH_CHECK(id[i] >= 0 && id[i] < experts, "ids: expected experts 0 … ", experts - 1,
                  ", got ", id[i], " at token ", t);
      needs[static_cast<size_t>(id[i] / local)] = 1;
      ++pairs[static_cast<size_t>(id[i] / local)];
    }
    int32_t* next = rows + t * fan;
    for (size_t r = 0; r < r_; ++r) {
      if (!needs[r]) continue;
      const int64_t n = count[r]++, at = static_cast<int64_t>(r) * capacity + n;
      row_at[r] = n < capacity ? at : -1;
      if (n >= capacity) continue;
      token[at] = static_cast<int32_t>(t);
      *next++ = static_cast<int32_t>(at);
    }
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const int64_t rank = id[i] / local, at = row_at[static_cast<size_t>(rank)];
      if (at < 0) continue;
      slot[i] = static_cast<int32_t>(at * top_k + i % top_k);
      message[(at + rank + 1) * top_k + i % top_k] = static_cast<int32_t>(id[i] % local);
    }
  }
  for (size_t r = 0; r < r_; ++r)
    message[static_cast<int64_t>(r) * (1 + capacity) * top_k] = static_cast<int32_t>(pairs[r]);
  raise(needed, 0, *std::max_element(count.begin(), count.end()));
  return out;
}

// A counting sort by expert, which leaves rows of one expert in the order of arrival.
ArrivedLayout host_arrived_layout(const at::Tensor& message, int64_t local, int64_t ranks,
                                  int64_t room, const at::Tensor& needed) {
  const int64_t top_k = message.size(1), slots_each = (message.size(0) / ranks - 1) * top_k;
  const int32_t* from = message.const_data_ptr<int32_t>();
  const auto each_pair = [&](const auto& f) {
    for (int64_t r = 0; r < ranks; ++r)
      for (int64_t i = 0; i < slots_each; ++i)
        if (const int32_t e = from[r * (slots_each + top_k) + top_k + i]; e >= 0)
          f(static_cast<size_t>(e), r * slots_each + i);
  };
  ArrivedLayout out;
  out.offsets = at::zeros({local + 1}, at::kLong);
  int64_t* offsets = out.offsets.data_ptr<int64_t>();
  each_pair([&](size_t e, int64_t) { ++offsets[e + 1]; });
  std::partial_sum(offsets, offsets + local + 1, offsets);
  std::vector<int64_t> next(offsets, offsets + local);
  for (int64_t e = 0; e <= local; ++e) offsets[e] = std::min(offsets[e], room);
  out.row = no_rows({offsets[local]}), out.slot = no_rows({offsets[local]});
  out.expert_row = no_rows({ranks * slots_each / top_k, top_k});
  each_pair([&](size_t e, int64_t slot) {
    const int64_t at = next[e]++;
    if (at >= room) return;
    out.row.data_ptr<int32_t>()[at] = static_cast<int32_t>(slot / top_k);
    out.slot.data_ptr<int32_t>()[at] = static_cast<int32_t>(slot);
    out.expert_row.data_ptr<int32_t>()[slot] = static_cast<int32_t>(at);
  });
  int64_t pairs = 0;
  for (int64_t r = 0; r < ranks; ++r) pairs += from[r * (slots_each + top_k)];
  raise(needed, 1, pairs);
  return out;
}

void check_index(const at::Tensor& x, const at::Tensor& index) {
  CHECK_DTYPE(index, at::kInt);
  TORCH_CHECK(index.is_contiguous() && x.is_contiguous(),
              "expected contiguous rows and indices, got strides ", x.strides(), " and ",
              index.strides());
}

}  // namespace

SentLayout sent_layout(const at::Tensor& ids, int64_t experts, int64_t ranks, int64_t capacity,
                       const at::Tensor& needed) {
  TORCH_CHECK(ids.dim() == 2 && ids.size(1) > 0, "ids: expected [tokens, top_k], got ",
              ids.sizes());
  TORCH_CHECK(experts % ranks == 0, "experts: expected a multiple of ", ranks, " ranks, got ",
              experts);
  TORCH_CHECK(capacity > 0, "capacity: expected at least 1, got ", capacity);
  const int64_t tokens = ids.size(0), top_k = ids.size(1);
  CHECK_SHAPE(ids, tokens, top_k);
  CHECK_DTYPE(ids, at::kLong);
  CHECK_DTYPE(needed, at::kLong);
  TORCH_CHECK(ranks * (1 + capacity) * top_k < (int64_t{1} << 31),
              "capacity: expected fewer than 2^31 slots, got ", capacity, " rows for each of ",
              ranks, " ranks");
  if constexpr (kCudaBuild)
    if (ids.is_cuda()) return cuda::sent_layout(ids, experts, ranks, capacity, needed);
  return host_sent_layout(ids, experts, ranks, capacity, needed);
}

ArrivedLayout arrived_layout(const at::Tensor& message, int64_t local, int64_t ranks, int64_t room,
                             const at::Tensor& needed) {
  TORCH_CHECK(message.dim() == 2 && message.size(0) % ranks == 0 && message.size(0) > ranks,
              "message: expected [ranks · (1 + capacity), top_k], got ", message.sizes());
  CHECK_DTYPE(message, at::kInt);
  CHECK_DTYPE(needed, at::kLong);
  TORCH_CHECK(room > 0, "room: expected at least 1, got ", room);
  if constexpr (kCudaBuild)
    if (message.is_cuda()) return cuda::arrived_layout(message, local, ranks, room, needed);
  return host_arrived_layout(message, local, ranks, room, needed);
}

at::Tensor take_rows(const at::Tensor& x, const at::Tensor& index) {
  TORCH_CHECK(x.dim() == 2 && index.dim() == 1, "take_rows: expected x [m, width] and index [n], ",
              "got ", x.sizes(), " and ", index.sizes());
  check_index(x, index);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::take_or_zero(x, index);
  const int64_t n = index.size(0), width = x.size(1);
  at::Tensor out = at::empty({n, width}, x.options());
  const auto bytes = static_cast<size_t>(width) * x.element_size();
  const auto* from = static_cast<const std::byte*>(x.const_data_ptr());
  auto* to = static_cast<std::byte*>(out.data_ptr());
  const int32_t* row = index.const_data_ptr<int32_t>();
  each_block(n, width, [&](int64_t i) {
    std::byte* here = to + static_cast<size_t>(i) * bytes;
    if (bytes == 0) return;
    if (row[i] < 0)
      std::memset(here, 0, bytes);
    else
      std::memcpy(here, from + static_cast<size_t>(row[i]) * bytes, bytes);
  });
  return out;
}

at::Tensor sum_rows(const at::Tensor& x, const at::Tensor& index) {
  TORCH_CHECK(x.dim() == 2 && index.dim() == 2,
              "sum_rows: expected x [m, width] and index [n, k], got ", x.sizes(), " and ",
              index.sizes());
  check_index(x, index);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::sum_of_rows(x, index);
  const int64_t n = index.size(0), k = index.size(1), width = x.size(1);
  at::Tensor out = at::empty({n, width}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "sum_rows", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    const int32_t* row = index.const_data_ptr<int32_t>();
    each_block(n, width * k, [&](int64_t i) {
      sweep<A>(width, [&](int64_t c, auto lanes) {
        Vec<A> sum = {};
        for (int64_t j = i * k; j < (i + 1) * k; ++j)
          if (row[j] >= 0) sum += load(from + row[j] * width + c, lanes);
        store(to + i * width + c, sum, lanes);
      });
    });
  });
  return out;
}

at::Tensor take_elements(const at::Tensor& x, const at::Tensor& index) {
  check_index(x, index);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) return cuda::element_or_zero(x, index);
  at::Tensor out = at::empty(index.sizes(), x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "take_elements", [&] {
    const scalar_t* from = x.const_data_ptr<scalar_t>();
    scalar_t* to = out.data_ptr<scalar_t>();
    const int32_t* at = index.const_data_ptr<int32_t>();
    for (int64_t i = 0; i < index.numel(); ++i) to[i] = at[i] < 0 ? scalar_t(0) : from[at[i]];
  });
  return out;
}

}  // namespace conclave::ops
