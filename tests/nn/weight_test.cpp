// Where weights lie in their units, what the checkpoint calls their parts, and what a released unit
// does.
#include "nn/weight.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "nn/decoder.h"

namespace conclave::nn {
namespace {

std::vector<std::string> piece_names(const Unit& unit) {
  std::vector<std::string> names;
  for (const auto& piece : unit.layout().pieces) names.push_back(piece.name);
  return names;
}

TEST(Weights, APlainWeightIsOnePieceUnderTheLayersPrefix) {
  Unit unit("layers.0.dense", at::kDouble);
  Weights weights("model.layers.0.", unit);
  Weight& norm = weights.add("input_layernorm.weight", {5});
  Weight& matrix = weights.add("self_attn.q_proj.weight", {4, 5});
  Weight& bias = weights.add("self_attn.q_proj.bias", {4});
  EXPECT_EQ(matrix.name(), "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(piece_names(unit), (std::vector<std::string>{"model.layers.0.input_layernorm.weight",
                                                         "model.layers.0.self_attn.q_proj.weight",
                                                         "model.layers.0.self_attn.q_proj.bias"}));
  EXPECT_EQ(norm.init(), Init::ones);
  EXPECT_EQ(matrix.init(), Init::normal);
  EXPECT_EQ(bias.init(), Init::zeros);
  EXPECT_FALSE(norm.decay());
  EXPECT_TRUE(matrix.decay());
  EXPECT_FALSE(bias.decay());
}

TEST(Weights, OfExpertsAUnitMayHoldAPart) {
  Unit dense("dense", at::kDouble), experts("experts", at::kDouble, true, 3);
  Weights weights("layer.", dense, &experts);
  EXPECT_EQ(weights.add_experts("experts.{}.{gate,up}.weight", {6, 4, 5}).shape(),
            (std::vector<int64_t>{2, 4, 5}));
  EXPECT_EQ(weights.add_fused_experts("experts.bias", {6, 4}, false).shape(),
            (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(piece_names(experts),
            (std::vector<std::string>{"layer.experts.0.gate.weight", "layer.experts.0.up.weight",
                                      "layer.experts.1.gate.weight", "layer.experts.1.up.weight",
                                      "layer.experts.bias"}));
  EXPECT_THROW(weights.add_experts("experts.{}.down.weight", {7, 4, 5}), c10::Error);
}

TEST(Weights, StartOnMultiplesOfTheAlignment) {
  Unit unit("unit", at::kDouble);
  Weights weights("", unit);
  Weight& a = weights.add("a.weight", {5});
  Weight& b = weights.add("b.weight", {16, 16});  // exactly one alignment
  Weight& c = weights.add("c.weight", {3, 100});
  Weight& d = weights.add("d.weight", {1});
  EXPECT_EQ(a.at().begin, 0);
  EXPECT_EQ(b.at().begin, comm::kUnitAlign);
  EXPECT_EQ(c.at().begin, 2 * comm::kUnitAlign);
  EXPECT_EQ(d.at().begin, 4 * comm::kUnitAlign);
  EXPECT_EQ(c.numel(), 300);
  EXPECT_EQ(unit.layout().numel, 4 * comm::kUnitAlign + 1);
}

TEST(Weights, AStackIsItsPartsOneAfterTheOther) {
  Unit unit("unit", at::kDouble);
  Weight& w = Weights("l.", unit).add_stack("mlp.{gate_proj,up_proj}.weight", {6, 4});
  const auto& pieces = unit.layout().pieces;
  ASSERT_EQ(piece_names(unit),
            (std::vector<std::string>{"l.mlp.gate_proj.weight", "l.mlp.up_proj.weight"}));
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(pieces[i].shape, (std::vector<int64_t>{3, 4}));
    EXPECT_EQ(pieces[i].at.begin, w.at().begin + 12 * static_cast<int64_t>(i));
    EXPECT_EQ(pieces[i].at.size(), 12);
  }
  EXPECT_THROW(Weights("l.", unit).add_stack("mlp.{gate_proj,up_proj}.weight", {5, 4}), c10::Error);
}

TEST(Weights, ExpertsLieOneAfterTheOtherEachWithItsParts) {
  Unit dense("dense", at::kDouble), experts("experts", at::kDouble);
  Weights weights("l.", dense, &experts);
  Weight& w = weights.add_experts("experts.{}.{gate_proj,up_proj}.weight", {3, 4, 5});
  const auto& pieces = experts.layout().pieces;
  EXPECT_TRUE(dense.layout().pieces.empty());
  EXPECT_EQ(
      piece_names(experts),
      (std::vector<std::string>{"l.experts.0.gate_proj.weight", "l.experts.0.up_proj.weight",
                                "l.experts.1.gate_proj.weight", "l.experts.1.up_proj.weight",
                                "l.experts.2.gate_proj.weight", "l.experts.2.up_proj.weight"}));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(pieces[i].shape, (std::vector<int64_t>{2, 5}));
    EXPECT_EQ(pieces[i].at.begin, 10 * static_cast<int64_t>(i));
  }
  EXPECT_EQ(w.at().end, pieces.back().at.end);
  EXPECT_EQ(weights.add_experts("experts.{}.down_proj.weight", {3, 5, 2}).name(),
            "l.experts.{}.down_proj.weight");
  EXPECT_EQ(experts.layout().pieces.back().name, "l.experts.2.down_proj.weight");
  EXPECT_THROW(Weights("l.", dense).add_experts("experts.{}.w", {3, 5, 2}), c10::Error);
}

TEST(Weights, FusedExpertsAreOnePieceWithABiasOfTheirOwn) {
  Unit dense("dense", at::kDouble), experts("experts", at::kDouble);
  Weights weights("l.", dense, &experts);
  Weight& w = weights.add_fused_experts("experts.gate_up_proj", {3, 4, 5}, true);
  Weight& bias = weights.add_fused_experts("experts.gate_up_proj_bias", {3, 4}, false);
  const auto& pieces = experts.layout().pieces;
  EXPECT_TRUE(dense.layout().pieces.empty());
  EXPECT_EQ(piece_names(experts),
            (std::vector<std::string>{"l.experts.gate_up_proj", "l.experts.gate_up_proj_bias"}));
  EXPECT_EQ(pieces[0].shape, (std::vector<int64_t>{3, 4, 5}));
  EXPECT_TRUE(pieces[0].transposed);
  EXPECT_FALSE(pieces[1].transposed);
  EXPECT_EQ(w.shape(), (std::vector<int64_t>{3, 4, 5}));
  EXPECT_EQ(w.init(), Init::normal);
  EXPECT_TRUE(w.decay());
  EXPECT_EQ(bias.init(), Init::zeros);
  EXPECT_FALSE(bias.decay());
  EXPECT_THROW(weights.add_fused_experts("bias", {3, 4}, true), c10::Error);
  EXPECT_THROW(weights.add_fused_experts("plain", {4}, false), c10::Error);
  EXPECT_THROW(Weights("l.", dense).add_fused_experts("w", {3, 5, 2}, false), c10::Error);
}

TEST(Weights, BuffersGoToAnUntrainedUnitThatIsWideEnough) {
  Unit dense("dense", at::kBFloat16), router("router", at::kFloat, /*trained=*/false);
  Weight& bias =
      Weights("l.", dense, nullptr, &router).add_buffer("gate.e_score_correction_bias", {6});
  EXPECT_EQ(piece_names(router), (std::vector<std::string>{"l.gate.e_score_correction_bias"}));
  EXPECT_EQ(bias.init(), Init::zeros);
  EXPECT_FALSE(bias.decay());
  EXPECT_FALSE(router.trained());
  EXPECT_TRUE(dense.layout().pieces.empty());
  EXPECT_THROW(Weights("l.", dense).add_buffer("b", {6}), c10::Error);
  EXPECT_THROW(Weights("l.", dense, nullptr, &dense).add_buffer("b", {6}), c10::Error);
  Decoder decoder;
  for (auto [dtype, wide] : {std::pair{at::kBFloat16, at::kFloat},
                             {at::kFloat, at::kFloat},
                             {at::kDouble, at::kDouble}}) {
    EXPECT_EQ(decoder.add_unit("router", dtype, false).dtype(), wide);
    EXPECT_EQ(decoder.add_unit("dense", dtype).dtype(), dtype);
  }
}

TEST(Weights, PiecesFillTheirWeight) {
  Unit unit("unit", at::kDouble);
  EXPECT_THROW(unit.add("w", {2, 3}, {{"part", {5}}}, Init::normal, true), c10::Error);
}

TEST(Unit, DataAndGradientAreViewsOfTheFlatBuffers) {
  Unit unit("unit", at::kDouble);
  Weights weights("", unit);
  weights.add("a.weight", {5});
  Weight& b = weights.add("b.weight", {2, 3});
  EXPECT_FALSE(b.grad().defined());
  at::Tensor data = at::arange(512, at::kDouble), grad = at::zeros({512}, at::kDouble);
  unit.bind(data);
  unit.bind_grad(grad);
  EXPECT_EQ(b.data().sizes(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.data().const_data_ptr<double>(), data.const_data_ptr<double>() + 256);
  b.grad().fill_(1);
  EXPECT_EQ(grad.sum().item().toDouble(), 6);
}

TEST(Unit, ReleasedWeightsThrowAndNameTheUnit) {
  Unit unit("layers.3.experts", at::kDouble);
  Weight& w = Weights("", unit).add("w.weight", {2, 3});
  at::Tensor data = at::zeros({256}, at::kDouble);
  unit.bind(data);
  EXPECT_NO_THROW(w.data());
  unit.release();
  try {
    w.data();
    ADD_FAILURE() << "expected an error";
  } catch (const c10::Error& e) {
    const std::string message = e.what_without_backtrace();
    EXPECT_NE(message.find("w.weight"), std::string::npos) << message;
    EXPECT_NE(message.find("layers.3.experts is released"), std::string::npos) << message;
  }
  unit.bind(data);
  EXPECT_NO_THROW(w.data());
}

}  // namespace
}  // namespace conclave::nn
