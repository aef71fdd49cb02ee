#include "ops/mla.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/simd.h"

namespace conclave::ops {

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
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, kv.scalar_type(), "mla_keys_values", [&] {
    const scalar_t *from = kv.const_data_ptr<scalar_t>(),
                   *turned = k_rope.const_data_ptr<scalar_t>();
    scalar_t *k = to.k.data_ptr<scalar_t>(), *v = to.v.data_ptr<scalar_t>();
    each_block(keys, heads * (nope + rope + v_dim), [&](int64_t key) {
      for (int64_t h = key * heads; h < (key + 1) * heads; ++h) {
        const scalar_t* head = from + h * (nope + v_dim);
        std::copy_n(head, nope, k + h * (nope + rope));
        std::copy_n(turned + key * rope, rope, k + h * (nope + rope) + nope);
        std::copy_n(head + nope, v_dim, v + h * v_dim);
      }
    });
  });
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
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, dk.scalar_type(), "mla_keys_values_backward", [&] {
    const scalar_t *k = dk.const_data_ptr<scalar_t>(), *v = dv.const_data_ptr<scalar_t>();
    scalar_t *kv = to.dkv.data_ptr<scalar_t>(), *turned = to.dk_rope.data_ptr<scalar_t>();
    each_block(keys, heads * (nope + rope + v_dim), [&](int64_t key) {
      for (int64_t h = key * heads; h < (key + 1) * heads; ++h) {
        std::copy_n(k + h * (nope + rope), nope, kv + h * (nope + v_dim));
        std::copy_n(v + h * v_dim, v_dim, kv + h * (nope + v_dim) + nope);
      }
      sweep<acc_t<scalar_t>>(rope, [&](int64_t i, auto lanes) {
        Vec<acc_t<scalar_t>> sum{};
        for (int64_t h = key * heads; h < (key + 1) * heads; ++h)
          sum += load(k + h * (nope + rope) + nope + i, lanes);
        store(turned + key * rope + i, sum, lanes);
      });
    });
  });
  return to;
}

}  // namespace conclave::ops
