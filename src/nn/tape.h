// The backward is ours: a tape. An op computes eagerly and leaves on the tape one closure that
// turns its output's gradient into its inputs' gradients. What the closure keeps it asks for with
// save(): by tensor class, the plan keeps the tensor or a recipe that makes it again from what its
// producer kept. Weight gradients are tasks that run after the backward, at once or later.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/parts.h"

namespace conclave::nn {

struct Value {  // one activation on one tape
  at::Tensor data;
  int id = -1;               // slot of its gradient; −1: no gradient wanted
  std::string tensor_class;  // what the memory plan calls it; empty: always kept
  std::function<at::Tensor()>
      recipe;  // makes `data` again from what its producer saved; empty: cannot be made again

  // Names the class, and the recipe by which the plan may have it made again: once, however many
  // closures ask for it; what was made lives as long as one of them does.
  void made_again_by(std::string name, std::function<at::Tensor()> make);
};

class Saved {  // a tensor kept for backward, or the recipe for it
 public:
  Saved() = default;
  explicit Saved(at::Tensor kept) : kept_(std::move(kept)) {}
  explicit Saved(std::function<at::Tensor()> recipe) : recipe_(std::move(recipe)) {}
  at::Tensor get() const { return recipe_ ? recipe_() : kept_; }

 private:
  at::Tensor kept_;
  std::function<at::Tensor()> recipe_;
};

class Tape {
 public:
  using Backward = std::function<void(Tape&, const at::Tensor& dy)>;

  // recording = false: no closures, nothing saved (inference). `recompute`: classes that are made
  // again instead of kept.
  explicit Tape(bool recording = true, std::set<std::string> recompute = {})
      : recording_(recording), recompute_(std::move(recompute)) {}

  bool recording() const { return recording_; }
  // True if save() would keep the recipe of a value of this class. For a layer whose recipe needs
  // what its backward does not.
  bool recomputes(const std::string& tensor_class) const {
    return recording_ && recompute_.count(tensor_class) > 0;
  }
  Value input(at::Tensor data, std::string tensor_class = {}) {
    return {std::move(data), next_id(), std::move(tensor_class), {}};
  }
  // `backward` gets the output's gradient and calls add_grad and later for what follows from it.
  Value record(at::Tensor out, Backward backward);
  Saved save(const Value& v);
  // Also accounts for a tensor that a closure keeps by itself (statistics, ids).
  Saved save(const std::string& tensor_class, const at::Tensor& t);
  // `t` is kept by another tape of the same micro-batch, which accounts for it.
  void counted_elsewhere(const at::Tensor& t) { counted_.insert(t.storage().data()); }

  // `own`: nobody else has g, so what comes after may be added in place.
  void add_grad(int id, const at::Tensor& g, bool own = false);
  // What reached a slot so far, taken: for a closure whose op adds it to what it brings itself.
  at::Tensor take_sum(int id) {
    return id < 0 ? at::Tensor() : std::exchange(grads_.at(static_cast<size_t>(id)).sum, {});
  }
  // The same, left there, for an op that adds to it in place; null where that must not be.
  at::Tensor* own_sum(int id);
  void later(std::function<void()> weight_gradient) {
    weight_gradients_.push_back({std::move(weight_gradient), Part::current()});
  }

  // Adds `seed` to the gradient of v; several outputs of a tape are seeded one by one before
  // run_backward().
  void seed(const Value& v, const at::Tensor& seed, bool own = false) { add_grad(v.id, seed, own); }
  // Runs the closures in reverse; each is freed, with all it saved, as soon as it ran.
  void run_backward();
  // Runs the weight-gradient tasks, in the order in which the backward left them.
  void run_weight_gradients();
  bool has_weight_gradients() const { return !weight_gradients_.empty(); }
  // The gradient that reached an input, undefined if none did; taken, so the tape no longer holds
  // it.
  at::Tensor take_grad(const Value& v) {
    return std::exchange(grads_.at(static_cast<size_t>(v.id)).sum, {});
  }

  // Bytes kept, by tensor class; each storage once. Inputs of the tape count under their class,
  // unnamed ones under "other".
  const std::map<std::string, int64_t>& saved_bytes() const { return saved_bytes_; }

 private:
  int next_id();
  bool recording_;
  std::set<std::string> recompute_;
  struct Grad {
    at::Tensor sum;
    bool own = false;
  };
  std::vector<Grad> grads_;
  // Each with the part of the step that it was recorded in, for the table of time by part.
  struct Step {
    int id;
    Backward backward;
    const char* part;
  };
  struct Task {
    std::function<void()> run;
    const char* part;
  };
  std::vector<Step> steps_;
  std::vector<Task> weight_gradients_;
  std::map<std::string, int64_t> saved_bytes_;
  std::set<const void*> counted_;  // storages already in saved_bytes_
};

}  // namespace conclave::nn
