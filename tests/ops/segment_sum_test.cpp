#include "ops/segment_sum.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

namespace conclave::ops {
namespace {

TEST(SegmentSum, EqualsASumRowByRow) {
  for (const int64_t hidden : {1, 7, 64, 130})
    for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const at::Tensor rows = at::randn({9, hidden}, at::kDouble).to(dtype);
      const at::Tensor index = at::randint(9, {12}, at::kLong);
      const std::vector<int64_t> borders{0, 3, 3, 4, 12};
      const at::Tensor out =
          segment_sum(rows, index, at::tensor(borders, at::TensorOptions().dtype(at::kLong)));
      const auto wide = dtype == at::kBFloat16 ? at::kFloat : dtype;
      at::Tensor expected = at::zeros({4, hidden}, wide);
      for (int64_t s = 0; s < 4; ++s)
        for (int64_t i = borders[s]; i < borders[s + 1]; ++i)
          expected[s] += rows[index[i].item<int64_t>()].to(wide);
      EXPECT_TRUE(at::equal(out, expected.to(dtype)));
    }
}

TEST(SegmentSum, WithoutAnIndexTakesTheRowsInOrder) {
  const at::Tensor rows = at::randn({5, 6}, at::kDouble);
  const at::Tensor offsets =
      at::tensor(std::vector<int64_t>{0, 2, 5}, at::TensorOptions().dtype(at::kLong));
  EXPECT_TRUE(at::equal(segment_sum(rows, {}, offsets),
                        segment_sum(rows, at::arange(5, at::kLong), offsets)));
  const at::Tensor none = at::zeros({1}, at::kLong);
  EXPECT_EQ(segment_sum(at::zeros({0, 3}), {}, none).sizes(), at::IntArrayRef({0, 3}));
}

TEST(SegmentSum, RefusesBordersThatDoNotFit) {
  const at::Tensor rows = at::randn({5, 6}, at::kDouble);
  EXPECT_THROW(segment_sum(rows, {}, at::arange(5, at::kLong)), c10::Error);
}

}  // namespace
}  // namespace conclave::ops
