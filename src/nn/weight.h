// Weights are handles into flat units. Their data is looked up when needed, so a unit may be
// released after forward and filled again before backward; their gradients accumulate straight into
// the unit's flat gradient.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/unit_layout.h"

namespace conclave::nn {

enum class Init { normal, ones, zeros };

class Unit;

class Weight {
 public:
  // The weight itself, shape(), in the unit's dtype. Throws while the unit is released.
  at::Tensor data() const;
  // A view of the unit's flat gradient, shape(); undefined when no gradient is bound (inference).
  at::Tensor grad() const;
  const std::string& name() const { return name_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  Init init() const { return init_; }
  bool decay() const { return decay_; }  // weight decay applies: a matrix, neither norm nor bias
  comm::Interval at() const { return at_; }
  int64_t numel() const { return at_.size(); }

 private:
  friend class Unit;
  const Unit* unit_ = nullptr;
  std::string name_;
  std::vector<int64_t> shape_;
  comm::Interval at_;
  Init init_ = Init::normal;
  bool decay_ = true;
};

// One flat buffer of weights, gathered, released, reduced and updated together. An untrained one
// holds buffers: whole on every rank and always bound, saved and loaded like weights, but without
// gradient and unknown to the optimizer.
class Unit {
 public:
  // Experts added to it are cut into expert_ranks equal parts, of which it holds the
  // expert_rank-th.
  Unit(std::string name, at::ScalarType dtype, bool trained = true, int64_t expert_ranks = 1,
       int64_t expert_rank = 0)
      : dtype_(dtype), trained_(trained), expert_ranks_(expert_ranks), expert_rank_(expert_rank) {
    layout_.name = std::move(name);
  }
  Unit(const Unit&) = delete;

  struct Part {
    std::string name;
    std::vector<int64_t> shape;  // of the checkpoint's tensor, in this order of memory
    // Of its elements those that are here; all of them if not set. None: another expert rank has
    // it.
    std::optional<comm::Interval> here = {};
  };
  // Adds a weight of `shape` that the checkpoint knows as `parts` (in order of memory; they fill it
  // exactly). `transposed`: there the last two dims of each are swapped.
  Weight& add(std::string name, std::vector<int64_t> shape, std::vector<Part> parts, Init init,
              bool decay, bool transposed = false);

  const std::string& name() const { return layout_.name; }
  at::ScalarType dtype() const { return dtype_; }
  bool trained() const { return trained_; }
  int64_t expert_ranks() const { return expert_ranks_; }
  int64_t expert_rank() const { return expert_rank_; }
  const comm::UnitLayout& layout() const { return layout_; }
  const std::vector<std::unique_ptr<Weight>>& weights() const { return weights_; }

  // data [≥ layout().numel] of dtype(); grad [≥ layout().numel] of fp32 or wider.
  void bind(at::Tensor data) { data_ = std::move(data); }
  void bind_grad(at::Tensor grad) { grad_ = std::move(grad); }
  void release() { data_ = at::Tensor(); }
  const at::Tensor& data() const { return data_; }
  const at::Tensor& grad() const { return grad_; }

 private:
  at::ScalarType dtype_;
  bool trained_;
  int64_t expert_ranks_, expert_rank_;
  comm::UnitLayout layout_;
  std::vector<std::unique_ptr<Weight>> weights_;
  at::Tensor data_, grad_;
};

// What a layer's constructor gets: it adds weights under the layer's prefix, dense ones, experts
// and the router's buffers to a unit each. Shapes are those of the whole layer; of experts a weight
// has the part that their unit holds.
class Weights {
 public:
  Weights(std::string prefix, Unit& dense, Unit* experts = nullptr, Unit* router = nullptr)
      : prefix_(std::move(prefix)), dense_(dense), experts_(experts), router_(router) {}
  // `name` is the checkpoint's key below the prefix. One dim: no decay, and ones (a norm), zeros (a
  // bias) or what `init` says; more: normal.
  Weight& add(const std::string& name, std::vector<int64_t> shape, std::optional<Init> init = {});
  // Matrices of equal shape that are one weight here: "mlp.{gate_proj,up_proj}.weight" with shape
  // [2 · ffn, hidden].
  Weight& add_stack(const std::string& pattern, std::vector<int64_t> shape);
  // A stack of experts that the checkpoint holds as one tensor an expert and part:
  // "mlp.experts.{}.{gate_proj,up_proj}.weight" with shape [experts, 2 · ffn, hidden] is, an expert
  // after the other, gate_proj [ffn, hidden] then up_proj [ffn, hidden].
  Weight& add_experts(const std::string& pattern, std::vector<int64_t> shape);
  // What the checkpoint holds beside the weights and no gradient reaches, zeros at first:
  // "mlp.gate.e_score_correction_bias" with shape [experts]. fp32 or wider.
  Weight& add_buffer(const std::string& name, std::vector<int64_t> shape);
  // A stack of experts that the checkpoint holds as one tensor of the same name: matrices [experts,
  // rows, in], there [experts, in, rows] where `transposed`, or their biases [experts, rows].
  Weight& add_fused_experts(const std::string& name, std::vector<int64_t> shape, bool transposed);

 private:
  // Leaves in `shape` the part of this rank; returns its first expert.
  int64_t cut_experts(const std::string& name, std::vector<int64_t>& shape) const;

  std::string prefix_;
  Unit& dense_;
  Unit *experts_, *router_;
};

}  // namespace conclave::nn
