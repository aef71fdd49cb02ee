#include "ops/mla.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/device.h"
#include "ops/mla_cuda.h"
#include "ops/simd.h"

namespace conclave::ops {
namespace {

// to [keys, width] = Σ over heads of from [keys, heads, width], whose rows are contiguous.
void sum_over_heads(at::Tensor& to, const at::Tensor& from) {
  if (from.is_cuda()) {
    to.copy_(from.sum(1, false, at::toOpMathType(from.scalar_type())));
    return;
  }
  const int64_t keys = from.size(0), heads = from.size(1), width = from.size(2),
                ld = from.stride(1);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, from.scalar_type(), "sum_over_heads", [&] {
    using A = acc_t<scalar_t>;
    const scalar_t* x = from.const_data_ptr<scalar_t>();
    scalar_t* y = to.data_ptr<scalar_t>();
    each_block(keys, heads * width, [&](int64_t key) {
      sweep<A>(width, [&](int64_t i, auto lanes) {
        Vec<A> sum{};
        for (int64_t h = key * heads; h < (key + 1) * heads; ++h)
          sum += load(x + h * ld + i, lanes);
        store(y + key * width + i, sum, lanes);
      });
    });
  });
}

bool split_on_gpu(const at::Tensor& dkv, const at::Tensor& dk, const at::Tensor& dv, int64_t rope) {
  if constexpr (kCudaBuild)
    if (dk.is_cuda()) return cuda::mla_keys_values_backward(dkv, dk, dv, rope);
  return false;
}

}  // namespace

MlaKeysValues mla_keys_values(const at::Tensor& kv, const at::Tensor& k_rope, int64_t heads,
                              int64_t v_dim) {
  TORCH_CHECK(kv.dim() == 2 && heads > 0 && v_dim > 0 && kv.size(1) % heads == 0 &&
                  kv.size(1) / heads >= v_dim,
              "kv: expected [keys, heads · (nope + v_dim)] with heads = ", heads,
              " and v_dim = ", v_dim, ", got ", kv.sizes());
  TORCH_CHECK(k_rope.dim() == 2, "k_rope: expected [keys, rope], got ", k_rope.sizes());
  const int64_t keys = kv.size(0), nope = kv.size(1) / heads - v_dim, rope = k_rope.size(1);
  CHECK_SHAPE(kv, keys, heads * (nope + v_dim));
  CHECK_SHAPE(k_rope, keys, rope);
  CHECK_DTYPE(k_rope, kv.scalar_type());
  MlaKeysValues to{at::empty({keys, heads, nope + rope}, kv.options()),
                   at::empty({keys, heads, v_dim}, kv.options())};
  if constexpr (kCudaBuild)
    if (kv.is_cuda() && cuda::mla_keys_values(to, kv, k_rope)) return to;
  const at::Tensor by_head = kv.view({keys, heads, nope + v_dim});
  to.k.narrow(2, 0, nope).copy_(by_head.narrow(2, 0, nope));
  to.k.narrow(2, nope, rope).copy_(k_rope.unsqueeze(1).expand({keys, heads, rope}));
  to.v.copy_(by_head.narrow(2, nope, v_dim));
  return to;
}

MlaKeysValuesGrad mla_keys_values_backward(const at::Tensor& dk, const at::Tensor& dv,
                                           int64_t rope) {
  TORCH_CHECK(dk.dim() == 3 && dv.dim() == 3 && rope >= 0 && rope <= dk.size(2),
              "mla_keys_values_backward: expected dk [keys, heads, nope + rope] with rope = ", rope,
              " and dv [keys, heads, v_dim], got ", dk.sizes(), " and ", dv.sizes());
  const int64_t keys = dk.size(0), heads = dk.size(1), nope = dk.size(2) - rope, v_dim = dv.size(2);
  CHECK_SHAPE(dk, keys, heads, nope + rope);
  CHECK_SHAPE(dv, keys, heads, v_dim);
  CHECK_DTYPE(dv, dk.scalar_type());
  MlaKeysValuesGrad to{at::empty({keys, heads * (nope + v_dim)}, dk.options()),
                       at::empty({keys, rope}, dk.options())};
  if (!split_on_gpu(to.dkv, dk, dv, rope)) {
    const at::Tensor by_head = to.dkv.view({keys, heads, nope + v_dim});
    by_head.narrow(2, 0, nope).copy_(dk.narrow(2, 0, nope));
    by_head.narrow(2, nope, v_dim).copy_(dv);
  }
  sum_over_heads(to.dk_rope, dk.narrow(2, nope, rope));
  return to;
}

}  // namespace conclave::ops
