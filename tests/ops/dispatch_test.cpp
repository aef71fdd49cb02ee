#include "ops/dispatch.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/topk.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, experts, top_k, hidden;
};
constexpr Case kCases[] = {{0, 4, 2, 8},     {1, 1, 1, 1},     {7, 60, 3, 33},
                           {130, 16, 4, 48}, {300, 5, 5, 100}, {50, 32, 12, 64}};

at::Tensor choose(Case c) {
  return std::get<1>(at::topk(normal({c.tokens, c.experts}, at::kDouble, 9), c.top_k));
}

TEST(ExpertLayout, SortsPairsByExpertThenToken) {
  for (auto c : kCases) {
    const at::Tensor ids = choose(c);
    const ExpertLayout layout = expert_layout(ids, c.experts);
    const int64_t *o = layout.offsets.const_data_ptr<int64_t>(),
                  *pair = layout.pair.const_data_ptr<int64_t>();
    const int64_t *row = layout.row.const_data_ptr<int64_t>(), *id = ids.const_data_ptr<int64_t>();
    ASSERT_EQ(layout.offsets.numel(), c.experts + 1);
    EXPECT_EQ(o[0], 0);
    EXPECT_EQ(o[c.experts], c.tokens * c.top_k);
    for (int64_t e = 0; e < c.experts; ++e)
      for (int64_t r = o[e]; r < o[e + 1]; ++r) {
        EXPECT_EQ(id[pair[r]], e);
        EXPECT_EQ(row[pair[r]], r);
        EXPECT_TRUE(r == o[e] || pair[r - 1] < pair[r]) << "row " << r;
      }
  }
}

TEST(ExpertLayout, NamesTheFirstIdThatIsWrong) {
  expect_error(
      [] {
        expert_layout(at::tensor(std::vector<int64_t>{0, 1, 3, 7}).view({2, 2}), 3);
      },
      "ids: expected experts 0 … 2, got 3 at token 1");
  expect_error(
      [] {
        expert_layout(at::tensor(std::vector<int64_t>{0, 1, 2, 2}).view({2, 2}), 3);
      },
      "got 2 twice at token 1");
}

struct GatherOp : EachDevice {
  // The layout as expert_layout makes it on this device: int32 on a GPU.
  ExpertLayout layout(const Case& c) const {
    const ExpertLayout l = expert_layout(choose(c), c.experts);
    if (!on_cuda()) return l;
    return {here(l.offsets.to(at::kInt)), here(l.pair.to(at::kInt)), here(l.row.to(at::kInt))};
  }
};
ON_EACH_DEVICE(GatherOp);

// Moves rows there and sums them back; the backwards are each other.
TEST_P(GatherOp, MovesRowsExactlyAndItsTransposeIsGatherSum) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message() << c.tokens << " tokens, top " << c.top_k << " of "
                                        << c.experts << " " << dtype);
      const ExpertLayout cpu = expert_layout(choose(c), c.experts), layout = this->layout(c);
      const at::Tensor token = cpu.pair.div(c.top_k, "floor");
      const Tensors in = {normal({c.tokens, c.hidden}, dtype, 1),
                          normal({c.tokens * c.top_k, c.hidden}, dtype, 2)};
      const Op ours = here([&](const Tensors& t) -> Tensors {
        return {gather_rows(t[0], layout), gather_sum(t[1], layout)};
      });
      auto aten = [&](const Tensors& t) -> Tensors {
        return with_gradients(
            [&](const Tensors& x) -> Tensors { return {x[0].index_select(0, token)}; }, {t[0]},
            t[1]);
      };
      EXPECT_TRUE(same_bits(ours(in)[0], aten(in)[0]));
      expect_as_good_as_aten(ours, aten, in);
      expect_same_bits_on_any_threads([&] { return ours(in); });
    }
}

TEST_P(GatherOp, MovesWeightsExactlyThereAndBack) {
  for (auto c : kCases)
    for (auto dtype : {at::kDouble, at::kFloat}) {
      const ExpertLayout cpu = expert_layout(choose(c), c.experts), layout = this->layout(c);
      const at::Tensor weights = normal({c.tokens, c.top_k}, dtype, 1);
      const Tensors got = here([&](const Tensors& t) -> Tensors {
        const at::Tensor rows = gather_weights(t[0], layout);
        return {rows, gather_weights_backward(rows, layout)};
      })({weights});
      EXPECT_TRUE(same_bits(got[0], weights.flatten().index_select(0, cpu.pair)));
      EXPECT_TRUE(same_bits(got[1], weights));
    }
}

}  // namespace
}  // namespace conclave::ops
