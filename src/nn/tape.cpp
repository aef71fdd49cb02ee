#include "nn/tape.h"

#include <ATen/ops/add.h>
#include <c10/util/Exception.h>

#include <utility>

namespace conclave::nn {

void Value::made_again_by(std::string name, std::function<at::Tensor()> make) {
  struct Memo {
    std::function<at::Tensor()> make;
    const char* part;
    at::Tensor made;
  };
  auto memo = std::make_shared<Memo>(Memo{std::move(make), Part::current(), {}});
  tensor_class = std::move(name);
  recipe = [memo] {
    Part part(memo->part);
    if (!memo->made.defined()) memo->made = memo->make();
    return memo->made;
  };
}

int Tape::next_id() {
  if (!recording_) return -1;
  grads_.emplace_back();
  return static_cast<int>(grads_.size()) - 1;
}

Value Tape::record(at::Tensor out, Backward backward) {
  Value v{std::move(out), next_id(), {}, {}};
  if (recording_) steps_.push_back({v.id, std::move(backward), Part::current()});
  return v;
}

Saved Tape::save(const Value& v) {
  if (!recording_) return Saved();
  if (v.recipe && recompute_.count(v.tensor_class)) return Saved(v.recipe);
  return save(v.tensor_class, v.data);
}

Saved Tape::save(const std::string& tensor_class, const at::Tensor& t) {
  if (!recording_) return Saved();
  if (t.defined() && counted_.insert(t.storage().data()).second)
    saved_bytes_[tensor_class.empty() ? "other" : tensor_class] +=
        static_cast<int64_t>(t.storage().nbytes());
  return Saved(t);
}

void Tape::add_grad(int id, const at::Tensor& g, bool own) {
  if (id < 0 || !g.defined()) return;
  Grad& to = grads_.at(static_cast<size_t>(id));
  if (!to.sum.defined())
    to = {g, own};
  else if (to.own)
    to.sum.add_(g);
  else
    to = {at::add(to.sum, g), true};
}

at::Tensor* Tape::own_sum(int id) {
  if (id < 0) return nullptr;
  Grad& at = grads_.at(static_cast<size_t>(id));
  return at.sum.defined() && at.own ? &at.sum : nullptr;
}

void Tape::run_backward() {
  for (; !steps_.empty(); steps_.pop_back()) {
    Step& step = steps_.back();
    Part part(step.part);
    if (at::Tensor g = take_sum(step.id); g.defined()) step.backward(*this, g);
  }
}

void Tape::run_weight_gradients() {
  for (auto& task : weight_gradients_) {
    Part part(task.part);
    task.run();
    task.run = nullptr;
  }
  weight_gradients_.clear();
}

}  // namespace conclave::nn
