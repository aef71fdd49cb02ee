// The layouts of an exchange in fixed numbers by hand; rows that are not there.
#include "ops/fixed_exchange.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

at::Tensor ints(const std::vector<int32_t>& v) {
  return at::tensor(v, at::TensorOptions().dtype(at::kInt));
}
std::vector<int64_t> values(const at::Tensor& t) {
  const at::Tensor flat = t.to(at::kLong).flatten();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}
using List = std::vector<int64_t>;

// Three tokens of two choices, two ranks of two experts each.
const List kIds{3, 0, 1, 0, 2, 3};

TEST(FixedExchange, LaysOutByHand) {
  const at::Tensor ids = at::tensor(kIds, at::TensorOptions().dtype(at::kLong)).view({3, 2});
  at::Tensor needed = at::zeros({2}, at::kLong);
  const SentLayout out = sent_layout(ids, 4, 2, 3, needed);
  EXPECT_EQ(values(out.token), (List{0, 1, -1, 0, 2, -1}));
  EXPECT_EQ(values(out.rows), (List{0, 3, 1, -1, 4, -1}));
  EXPECT_EQ(values(out.slot), (List{6, 1, 2, 3, 8, 9}));
  EXPECT_EQ(values(out.message), (List{3, -1, -1, 0, 1, 0, -1, -1,  //
                                       3, -1, 1, -1, 0, 1, -1, -1}));
  EXPECT_EQ(values(needed), (List{2, 0}));
  // As if both ranks had sent what this one has for them.
  const ArrivedLayout in = arrived_layout(out.message, 2, 2, 9, needed);
  EXPECT_EQ(values(in.offsets), (List{0, 3, 6}));
  EXPECT_EQ(values(in.row), (List{0, 1, 4, 1, 3, 4}));
  EXPECT_EQ(values(in.slot), (List{1, 3, 8, 2, 6, 9}));
  EXPECT_EQ(values(in.expert_row), (List{-1, 0, 3, 1, -1, -1, 4, -1, 2, 5, -1, -1}));
  EXPECT_EQ(values(needed), (List{2, 6}));
}

TEST(FixedExchange, LeavesOutWhatHasNoRoomAndSaysSo) {
  const at::Tensor ids = at::tensor(kIds, at::TensorOptions().dtype(at::kLong)).view({3, 2});
  at::Tensor needed = at::zeros({2}, at::kLong);
  const SentLayout out = sent_layout(ids, 4, 2, 1, needed);
  EXPECT_EQ(values(out.token), (List{0, 0}));
  EXPECT_EQ(values(out.rows), (List{0, 1, -1, -1, -1, -1}));
  EXPECT_EQ(values(out.slot), (List{2, 1, -1, -1, -1, -1}));
  EXPECT_EQ(values(out.message), (List{3, -1, -1, 0, 3, -1, 1, -1}));
  const ArrivedLayout in = arrived_layout(out.message, 2, 2, 1, needed);
  EXPECT_EQ(values(in.offsets), (List{0, 1, 1}));
  EXPECT_EQ(values(in.row), (List{0}));
  EXPECT_EQ(values(in.expert_row), (List{-1, 0, -1, -1}));
  EXPECT_EQ(values(needed), (List{2, 6}));
}

const Op take_rows_of = [](const Tensors&t) -> Tensors { return {take_rows(t[0], t[1])}; },
         sum_rows_of = [](const Tensors&t) -> Tensors { return {sum_rows(t[0], t[1])}; },
         take_elements_of = [](const Tensors&t) -> Tensors { return {take_elements(t[0], t[1])}; };

struct FixedRows : EachDevice {};
ON_EACH_DEVICE(FixedRows);

TEST_P(FixedRows, ThatAreNotThereReadAsZerosAndAddNothing) {
  const at::Tensor one = ints({2, -1, 0, 2}),
                   several = ints({1, 0, -1, -1, -1, -1, -1, 2, 2}).view({3, 3});
  for (int64_t width : {1, 3, 8, 20}) {
    for (auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      const at::Tensor x = normal({3, width}, dtype, 1);
      const at::Tensor taken = here(take_rows_of)({x, one})[0];
      EXPECT_TRUE(same_bits(taken[0], x[2])) << dtype;
      EXPECT_TRUE(same_bits(taken[1], at::zeros({width}, x.options())));
      EXPECT_TRUE(same_bits(taken[3], x[2]));
      if (on_cuda() && dtype == at::kDouble) continue;
      const at::Tensor sum = here(sum_rows_of)({x, several})[0];
      EXPECT_TRUE(same_bits(sum[0], x[1].to(wide(dtype)).add(x[0]).to(dtype))) << dtype;
      EXPECT_TRUE(same_bits(sum[1], at::zeros({width}, x.options())));
      EXPECT_TRUE(same_bits(sum[2], x[2].to(wide(dtype)).mul(2).to(dtype))) << dtype;
    }
    const at::Tensor w = normal({3 * width}, at::kFloat, 2);
    const at::Tensor element = here(take_elements_of)({w, several})[0];
    EXPECT_EQ(element[0][2].item<float>(), 0);
    EXPECT_EQ(element[0][0].item<float>(), w[1].item<float>());
  }
}

TEST(FixedExchange, RefusesWhatDoesNotFit) {
  const at::Tensor ids = at::zeros({2, 1}, at::kLong);
  at::Tensor needed = at::zeros({2}, at::kLong);
  expect_error([&] { sent_layout(ids, 5, 2, 3, needed); },
               "experts: expected a multiple of 2 ranks, got 5");
  expect_error([&] { sent_layout(ids.add(4), 4, 2, 3, needed); },
               "ids: expected experts 0 … 3, got 4 at token 0");
  expect_error([&] { sent_layout(ids, 4, 2, 0, needed); }, "capacity: expected at least 1, got 0");
  expect_error(
      [&] {
        arrived_layout(at::zeros({2, 1}, at::kInt), 2, 2, 3, needed);
      },
      "message: expected [ranks · (1 + capacity), top_k]");
}

}  // namespace
}  // namespace conclave::ops
