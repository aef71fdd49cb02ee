#include "base/check.h"

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <string>

namespace conclave {
namespace {

// The first line of a c10::Error's own text.
std::string first_line(const at::Tensor& x, int64_t tokens, int64_t hidden) {
  try {
    CHECK_SHAPE(x, tokens, hidden);
  } catch (const c10::Error& error) {
    return error.msg();
  }
  return "nothing thrown";
}

TEST(CheckShape, SaysWhatWasExpectedAndWhatCame) {
  EXPECT_EQ(first_line(at::empty({4096, 2047}), 4096, 2048),
            "x: expected [tokens, hidden] = [4096, 2048], got [4096, 2047]");
  EXPECT_EQ(first_line(at::empty({2}), 2, 1), "x: expected [tokens, hidden] = [2, 1], got [2]");
  EXPECT_EQ(first_line(at::empty({}), 2, 1), "x: expected [tokens, hidden] = [2, 1], got []");
  EXPECT_EQ(first_line(at::Tensor(), 2, 1),
            "x: expected [tokens, hidden] = [2, 1], got an undefined tensor");
  EXPECT_EQ(first_line(at::empty({3, 2}).t(), 2, 3),
            "x: expected [tokens, hidden] = [2, 3] contiguous, got strides [1, 2]");
  EXPECT_EQ(first_line(at::empty({0, 3}), 0, 3), "nothing thrown");
}

TEST(CheckDtype, NamesBoth) {
  at::Tensor x = at::empty({2});
  CHECK_DTYPE(x, at::kFloat);
  try {
    CHECK_DTYPE(x, at::kDouble);
    ADD_FAILURE() << "nothing thrown";
  } catch (const c10::Error& error) {
    EXPECT_EQ(error.msg(), "x: expected dtype Double, got Float");
  }
}

}  // namespace
}  // namespace conclave
