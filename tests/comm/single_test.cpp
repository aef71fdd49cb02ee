#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "cases.h"
#include "comm/comm.h"

namespace conclave::comm {
namespace {

TEST(Single, CopiesAndLeavesSumsAlone) {
  const auto comm = single();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  const at::Tensor x = numbered(3, 6);
  at::Tensor out = at::zeros({6}, at::kDouble);
  comm->all_gather(out, x);
  EXPECT_TRUE(at::equal(out, x));
  out.zero_();
  comm->reduce_scatter(out, x);
  EXPECT_TRUE(at::equal(out, x));
  comm->all_reduce(out);
  EXPECT_TRUE(at::equal(out, x));
  comm->reduce_scatter(out, out);
  EXPECT_TRUE(at::equal(out, x));
  at::Tensor rows = at::zeros({3, 2}, at::kDouble);
  comm->all_to_all(rows, x.view({3, 2}), std::vector<int64_t>{3}, std::vector<int64_t>{3});
  EXPECT_TRUE(at::equal(rows, x.view({3, 2})));
  comm->barrier();
}

TEST(Single, ChecksContracts) {
  const auto comm = single();
  at::Tensor out = at::zeros({5}, at::kDouble);
  EXPECT_EQ(message_of([&] { comm->all_gather(out, numbered(0, 6)); }),
            "all_gather: expected `out` of 1 · 6 elements, got 5");
  EXPECT_EQ(message_of([&] { comm->all_gather(out, numbered(0, 5, at::kFloat)); }),
            "all_gather: expected one dtype, got float in and double out");
  EXPECT_EQ(message_of([&] { comm->all_reduce(numbered(0, 5, at::kInt)); }),
            "all_reduce: expected Float, Double, BFloat16 or Long to add up, got Int");
  EXPECT_EQ(message_of([&] { comm->all_reduce(at::Tensor()); }),
            "all_reduce: expected a tensor for `x`, got an undefined one");
  EXPECT_EQ(message_of([&] {
              comm->all_reduce(numbered(0, 6).view({2, 3}).t());
            }),
            "all_reduce: expected a contiguous `x`, got sizes [3, 2] with strides [1, 3]");
  const std::vector<int64_t> five{5}, four{4}, two{2, 3}, negative{-1};
  EXPECT_EQ(message_of([&] { comm->all_to_all(out, numbered(0, 5), five, four); }),
            "all_to_all: send_rows [4] are 4 rows, `in` has 5");
  EXPECT_EQ(message_of([&] { comm->all_to_all(out, numbered(0, 5), four, five); }),
            "all_to_all: receive_rows [4] are 4 rows, `out` has 5");
  EXPECT_EQ(message_of([&] { comm->all_to_all(out, numbered(0, 5), five, two); }),
            "all_to_all: expected one count a rank (1) in send_rows, got 2");
  EXPECT_EQ(message_of([&] { comm->all_to_all(out, numbered(0, 5), negative, five); }),
            "all_to_all: expected counts of at least 0 in receive_rows, got -1");
  EXPECT_EQ(message_of([&] { comm->all_to_all(out, out, five, five); }),
            "all_to_all: `in` and `out` overlap");
}

}  // namespace
}  // namespace conclave::comm
