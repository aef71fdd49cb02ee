#include "ops/embedding.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "ops/op_testing.h"

namespace conclave::ops {
namespace {
using namespace testing;

struct Case {
  int64_t tokens, vocab, hidden;
};
constexpr Case kCases[] = {{0, 4, 8},     {1, 1, 1},      {70, 5, 33},     {300, 100, 260},
                           {3000, 3, 12}, {1100, 300, 8}, {2500, 20000, 4}};

struct EmbeddingOp : EachDevice {};
ON_EACH_DEVICE(EmbeddingOp);

Tensors ours(const Tensors& in) {  // weight, ids, dy
  at::Tensor dweight = at::zeros(in[0].sizes(), in[0].options().dtype(wide(in[0].scalar_type())));
  embedding_backward_(dweight, in[1], in[2]);
  return {embedding(in[1], in[0]), dweight};
}

Tensors aten(const Tensors& in) {
  return with_gradients([&](const Tensors& x) -> Tensors { return {x[0].index_select(0, in[1])}; },
                        {in[0]}, in[2]);
}

TEST_P(EmbeddingOp, EqualsAtenInValueAndGradient) {
  for (auto c : kCases)
    for (auto dtype : kTypes) {
      SCOPED_TRACE(::testing::Message()
                   << c.tokens << " x " << c.vocab << " x " << c.hidden << " " << dtype);
      const Tensors in = {normal({c.vocab, c.hidden}, dtype, 1), whole({c.tokens}, c.vocab, 2),
                          normal({c.tokens, c.hidden}, dtype, 3)};
      EXPECT_TRUE(same_bits(here(ours)(in)[0], aten(in)[0]));
      expect_as_good_as_aten(here(ours), aten, in);
      expect_same_bits_on_any_threads([&] { return here(ours)(in); });
    }
}

TEST_P(EmbeddingOp, AddsInTokenOrderToWhatIsThere) {
  at::Tensor dweight = here(at::zeros({2, 1}).fill_(1));
  embedding_backward_(dweight, here(at::tensor(std::vector<int64_t>{1, 1, 1})),
                      here(at::tensor(std::vector<float>{0x1p24f, 1, 1}).view({3, 1})));
  dweight = dweight.cpu();
  EXPECT_EQ(dweight.const_data_ptr<float>()[0], 1.f);
  EXPECT_EQ(dweight.const_data_ptr<float>()[1],
            0x1p24f);  // ((1 + 2²⁴) + 1) + 1 in fp32; another order gives more
}

TEST_P(EmbeddingOp, TrapThePaddingTokenLeavesNoGradient) {
  at::Tensor dweight = here(at::zeros({3, 1}));
  embedding_backward_(dweight, here(at::tensor(std::vector<int64_t>{0, 2, 0, 1})),
                      here(at::tensor(std::vector<float>{1, 2, 4, 8}).view({4, 1})),
                      /*padding=*/2);
  dweight = dweight.cpu();
  for (auto [row, sum] : {std::pair{0, 5.f}, {1, 8.f}, {2, 0.f}})
    EXPECT_EQ(dweight.const_data_ptr<float>()[row], sum);
}

TEST(Embedding, NamesTheFirstIdOutsideTheVocabulary) {
  const at::Tensor weight = normal({4, 2}, at::kFloat, 1);
  expect_error(
      [&] {
        embedding(at::tensor(std::vector<int64_t>{0, 4, -1}), weight);
      },
      "ids: expected 0 … 3, got 4 at token 1");
  expect_error(
      [&] {
        embedding_backward_(at::zeros({4, 2}), at::tensor(std::vector<int64_t>{-1}),
                            at::zeros({1, 2}));
      },
      "got -1 at token 0");
}

}  // namespace
}  // namespace conclave::ops
