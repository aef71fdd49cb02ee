#include "ops/mla_cuda.h"

#include "kernels/mla.h"
#include "ops/launch_cuda.h"

namespace conclave::ops::cuda {
namespace {

// Of k or dk [keys, heads, nope + rope] and v or dv; with heads = 0 where the kernels do not do it.
kernels::MlaSizes sizes(const at::Tensor& k, const at::Tensor& v, int64_t rope) {
  const auto element = static_cast<int64_t>(k.element_size());
  const int64_t nope = (k.size(2) - rope) * element, v_dim = v.size(2) * element;
  rope *= element;
  if (((nope | rope | v_dim) & 15) || (nope + rope + v_dim) / 16 > kernels::kMostMlaPacks)
    return {k.size(0), 0, 0, 0, 0};
  return {k.size(0), static_cast<int>(k.size(1)), static_cast<int>(nope / 16),
          static_cast<int>(rope / 16), static_cast<int>(v_dim / 16)};
}

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (!kernels::aligned16(0, static_cast<const char*>(p))) return false;
  return true;
}

}  // namespace

bool mla_keys_values(const MlaKeysValues& to, const at::Tensor& kv, const at::Tensor& k_rope) {
  const OnDevice stream(kv, {{"k_rope", k_rope}});
  const kernels::MlaSizes s = sizes(to.k, to.v, k_rope.size(1));
  if (s.heads == 0 || !aligned({kv.const_data_ptr(), k_rope.const_data_ptr()})) return false;
  kernels::mla_keys_values(to.k.data_ptr(), to.v.data_ptr(), kv.const_data_ptr(),
                           k_rope.const_data_ptr(), s, stream);
  return true;
}

bool mla_keys_values_backward(const at::Tensor& dkv, const at::Tensor& dk, const at::Tensor& dv,
                              int64_t rope) {
  const OnDevice stream(dk, {{"dv", dv}});
  const kernels::MlaSizes s = sizes(dk, dv, rope);
  if (s.heads == 0 || !aligned({dk.const_data_ptr(), dv.const_data_ptr()})) return false;
  kernels::mla_keys_values_backward(dkv.data_ptr(), dk.const_data_ptr(), dv.const_data_ptr(), s,
                                    stream);
  return true;
}

}  // namespace conclave::ops::cuda
