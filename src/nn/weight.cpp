#include "nn/weight.h"

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <functional>
#include <numeric>

namespace conclave::nn {
namespace {

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t align_up(int64_t n) {
  return (n + comm::kUnitAlign - 1) / comm::kUnitAlign * comm::kUnitAlign;
}

// "mlp.experts.{}.{gate_proj,up_proj}.weight" → the text with expert e, once a part.
std::vector<std::string> expand(std::string pattern, int64_t expert) {
  if (size_t hole = pattern.find("{}"); hole != std::string::npos)
    pattern.replace(hole, 2, std::to_string(expert));
  const size_t open = pattern.find('{'), close = pattern.find('}');
  if (open == std::string::npos) return {pattern};
  std::vector<std::string> names;
  for (size_t begin = open + 1; begin <= close;) {
    const size_t end = std::min(pattern.find(',', begin), close);
    names.push_back(pattern.substr(0, open) + pattern.substr(begin, end - begin) +
                    pattern.substr(close + 1));
    begin = end + 1;
  }
  return names;
}

}  // namespace

at::Tensor Weight::data() const {
  TORCH_CHECK(unit_->data().defined(), "weight ", name_, ": its unit ", unit_->name(),
              " is released; expected it gathered before use");
  return unit_->data().narrow(0, at_.begin, at_.size()).view(shape_);
}

at::Tensor Weight::grad() const {
  if (!unit_->grad().defined()) return {};
  return unit_->grad().narrow(0, at_.begin, at_.size()).view(shape_);
}

Weight& Unit::add(std::string name, std::vector<int64_t> shape, std::vector<Part> parts, Init init,
                  bool decay, bool transposed) {
  auto w = std::make_unique<Weight>();
  w->unit_ = this;
  w->name_ = std::move(name);
  w->at_.begin = align_up(layout_.numel);
  w->at_.end = w->at_.begin + product(shape);
  w->shape_ = std::move(shape);
  w->init_ = init;
  w->decay_ = decay;
  int64_t end = w->at_.begin;
  for (Part& part : parts) {
    const comm::Interval here = part.here.value_or(comm::Interval{0, product(part.shape)});
    layout_.tensors.push_back({part.name, part.shape, transposed});
    if (part.here && here.size() == 0) continue;
    const int64_t begin = end;
    end += here.size();
    layout_.pieces.push_back(
        {std::move(part.name), std::move(part.shape), {begin, end}, here.begin, transposed});
  }
  TORCH_CHECK(end == w->at_.end, "weight ", w->name_, ": its pieces hold ", end - w->at_.begin,
              " elements, expected ", w->numel());
  layout_.numel = w->at_.end;
  weights_.push_back(std::move(w));
  return *weights_.back();
}

Weight& Weights::add(const std::string& name, std::vector<int64_t> shape,
                     std::optional<Init> init) {
  const bool matrix = shape.size() > 1;
  const bool bias = name.ends_with(".bias");
  const Init usual = matrix ? Init::normal : bias ? Init::zeros : Init::ones;
  return dense_.add(prefix_ + name, shape, {{prefix_ + name, shape}}, init.value_or(usual), matrix);
}

Weight& Weights::add_stack(const std::string& pattern, std::vector<int64_t> shape) {
  std::vector<Unit::Part> pieces;
  const auto names = expand(pattern, 0);
  const int64_t parts = static_cast<int64_t>(names.size());
  TORCH_CHECK(shape.size() == 2 && shape[0] % parts == 0, pattern, ": expected [", parts,
              " · rows, in], got ", c10::IntArrayRef(shape));
  for (const auto& name : names) pieces.push_back({prefix_ + name, {shape[0] / parts, shape[1]}});
  return dense_.add(prefix_ + pattern, shape, std::move(pieces), Init::normal, true);
}

int64_t Weights::cut_experts(const std::string& name, std::vector<int64_t>& shape) const {
  TORCH_CHECK(experts_, name, ": this block was given no unit for experts");
  const int64_t ranks = experts_->expert_ranks();
  TORCH_CHECK(shape.at(0) % ranks == 0, name, ": expected a multiple of ", ranks, " experts, got ",
              shape[0]);
  shape[0] /= ranks;
  return experts_->expert_rank() * shape[0];
}

Weight& Weights::add_experts(const std::string& pattern, std::vector<int64_t> shape) {
  const int64_t experts = shape.at(0), first = cut_experts(pattern, shape);
  std::vector<Unit::Part> pieces;
  for (int64_t e = 0; e < experts; ++e) {
    const auto names = expand(pattern, e);
    const int64_t parts = static_cast<int64_t>(names.size());
    TORCH_CHECK(shape.size() == 3 && shape[1] % parts == 0, pattern, ": expected [experts, ", parts,
                " · rows, in], got ", c10::IntArrayRef(shape));
    for (const auto& name : names) {
      pieces.push_back({prefix_ + name, {shape[1] / parts, shape[2]}});
      if (e < first || e >= first + shape[0]) pieces.back().here = comm::Interval{};
    }
  }
  return experts_->add(prefix_ + pattern, shape, std::move(pieces), Init::normal, true);
}

Weight& Weights::add_buffer(const std::string& name, std::vector<int64_t> shape) {
  TORCH_CHECK(router_ && !router_->trained(), name,
              ": this block was given no untrained unit for buffers");
  return router_->add(prefix_ + name, shape, {{prefix_ + name, shape}}, Init::zeros, false);
}

Weight& Weights::add_fused_experts(const std::string& name, std::vector<int64_t> shape,
                                   bool transposed) {
  const std::vector<int64_t> whole = shape;
  const int64_t first = cut_experts(name, shape);
  const bool matrices = shape.size() == 3;
  TORCH_CHECK(matrices || (shape.size() == 2 && !transposed), name,
              ": expected [experts, rows, in], or biases [experts, rows] that are not transposed, "
              "got ",
              c10::IntArrayRef(shape));
  const int64_t numel = product(shape), begin = first * (numel / shape[0]);
  return experts_->add(prefix_ + name, shape,
                       {{prefix_ + name, whole, comm::Interval{begin, begin + numel}}},
                       matrices ? Init::normal : Init::zeros, matrices, transposed);
}

}  // namespace conclave::nn
