#include "ops/mla.h"

#include <ATen/ops/cat.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t keys, heads, nope, rope, v_dim;
};
constexpr Case kCases[] = {
    {0, 2, 4, 2, 3}, {1, 1, 1, 2, 1}, {7, 3, 5, 6, 9}, {33, 4, 128, 64, 128}, {300, 2, 7, 2, 3}};

Tensors inputs(Case c, at::ScalarType dtype) {  // kv, k_rope, dk, dv
  return {normal({c.keys, c.heads * (c.nope + c.v_dim)}, dtype, 1),
          normal({c.keys, c.rope}, dtype, 2), normal({c.keys, c.heads, c.nope + c.rope}, dtype, 3),
          normal({c.keys, c.heads, c.v_dim}, dtype, 4)};
}

Op ours(Case c) {
  return [=](const Tensors& in) -> Tensors {
    auto [k, v] = mla_keys_values(in[0], in[1], c.heads, c.v_dim);
    auto [dkv, dk_rope] = mla_keys_values_backward(in[2], in[3], c.rope);
    return {at::cat({k, v}, 2), dkv, dk_rope};
  };
}

Op aten(Case c) {
  return [=](const Tensors& in) -> Tensors {
    return with_gradients(
        [&](const Tensors& x) -> Tensors {
          const at::Tensor kv = x[0].view({c.keys, c.heads, c.nope + c.v_dim});
          return {
              at::cat({kv.slice(2, 0, c.nope), x[1].unsqueeze(1).expand({c.keys, c.heads, c.rope}),
                       kv.slice(2, c.nope)},
                      2)};
        },
        {in[0], in[1]}, at::cat({in[2], in[3]}, 2));
  };
}

TEST(MlaKeysValues, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.keys << " x " << c.heads << " " << dtype);
      const Tensors in = inputs(c, dtype), got = ours(c)(in), want = aten(c)(in);
      EXPECT_TRUE(same_bits(got[0], want[0]));  // copies
      EXPECT_TRUE(same_bits(got[1], want[1]));
      expect_as_good_as_aten(ours(c), aten(c), in);
    }
}

TEST(MlaKeysValues, HasTheSameBitsOnAnyNumberOfThreads) {
  for (auto c : kCases)
    for (auto dtype : kTypes)
      expect_same_bits_on_any_threads([&] { return ours(c)(inputs(c, dtype)); });
}

TEST(MlaKeysValues, RefusesOtherShapes) {
  const Tensors in = inputs({7, 3, 5, 6, 9}, at::kFloat);
  expect_error([&] { mla_keys_values(in[0], in[1], 4, 9); },
               "kv: expected [keys, heads · (nope + v_dim)]");
  expect_error([&] { mla_keys_values(in[0], in[1].slice(0, 0, 6), 3, 9); },
               "k_rope: expected [keys, rope]");
  expect_error([&] { mla_keys_values_backward(in[2], in[3], 12); }, "with rope = 12");
}

}  // namespace
}  // namespace conclave::ops
