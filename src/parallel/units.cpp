#include "parallel/units.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <limits>

#include "ops/adamw.h"

namespace conclave::parallel {
namespace {

at::ScalarType grad_dtype(at::ScalarType dtype, const UnitsOptions& options) {
  const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat,
                       chosen = options.grad_dtype;
  if (chosen == at::ScalarType::Undefined || chosen == wide) return wide;
  TORCH_CHECK(chosen == at::kBFloat16 && dtype == at::kBFloat16 && options.device.is_cuda(),
              "gradients: expected ", wide, ", or bf16 beside bf16 weights on CUDA, got ", chosen,
              " beside ", dtype, " on ", options.device);
  return chosen;
}

// Zeroes what lies between weights in this range, without touching (and so paging in) the weights
// themselves.
void zero_gaps(const Shard& s) {
  int64_t done = s.range.begin;
  auto zero_to = [&](int64_t end) {
    end = std::min(end, s.range.end);
    if (end > done) s.weights.narrow(0, done - s.range.begin, end - done).zero_();
  };
  for (const auto& w : s.unit->weights()) {
    zero_to(w->at().begin);
    done = std::max(done, w->at().end);
  }
  zero_to(s.range.end);
}

std::vector<int64_t> decay_ranges(const nn::Unit& unit, comm::Interval range) {
  std::vector<int64_t> out;
  for (const auto& w : unit.weights()) {
    if (!w->decay()) continue;
    const int64_t begin = std::max(w->at().begin, range.begin),
                  end = std::min(w->at().end, range.end);
    if (begin < end) out.insert(out.end(), {begin - range.begin, end - range.begin});
  }
  return out;
}

// No replicas. It has no state, so all threads may use the one.
comm::Comm* alone() {
  static const std::unique_ptr<comm::Comm> one = comm::single();
  return one.get();
}

}  // namespace

Units::Units(nn::Decoder& decoder, const comm::Groups& g, UnitsOptions options)
    : Units(decoder, *g.world, {g.dp_shard.get(), g.dp_replicate.get()},
            {g.ep_shard.get(), g.ep_replicate.get()}, options) {}

Units::Units(nn::Decoder& decoder, comm::Comm& comm, UnitsOptions options)
    : Units(decoder, comm, {&comm, alone()}, {&comm, alone()}, options) {}

Units::Units(nn::Decoder& decoder, comm::Comm& world, Cut dense, Cut experts, UnitsOptions options)
    : decoder_(decoder), world_(world), options_(options) {
  const auto is_experts = [&](const nn::Unit* unit) {
    for (size_t i = 0; i < decoder.layers.size() + decoder.mtp.size(); ++i)
      if (decoder.layer(i).experts == unit) return true;
    return false;
  };
  options_.device = at::empty({0}, at::TensorOptions(options.device)).device();  // with its index
  for (auto& unit : decoder.units) {
    Shard s;
    s.unit = unit.get();
    const Cut cut = is_experts(unit.get()) ? experts : dense;
    s.over = cut.over, s.replicas = cut.replicas;
    s.range = unit->trained() ? unit->layout().shard(s.over->rank(), s.over->size())
                              : unit->layout().shard(0, 1);
    const auto memory = at::TensorOptions().dtype(unit->dtype()).device(options.device);
    s.weights = at::empty({s.range.size()}, memory);
    zero_gaps(s);
    s.decay_ranges = decay_ranges(*unit, s.range);
    if (options.training && unit->trained()) {
      const auto gradient = memory.dtype(grad_dtype(unit->dtype(), options));
      s.grad = at::zeros({s.range.size()}, gradient);
      unit->bind_grad(is_whole(s) ? s.grad
                                  : at::zeros({unit->layout().padded(s.over->size())}, gradient));
    }
    shards_.push_back(std::move(s));
    if (!unit->trained() || (is_whole(shards_.back()) && !options.release_after_use))
      unit->bind(shards_.back().weights);
  }
}

Shard& Units::shard_of(nn::Unit* unit) {
  for (auto& s : shards_)
    if (s.unit == unit) return s;
  TORCH_CHECK(false, "unit ", unit->name(), " is not one of this decoder's");
}

void Units::gather(nn::Unit* unit) {
  if (!unit || unit->data().defined()) return;
  Shard& s = shard_of(unit);
  at::Tensor whole = at::empty({unit->layout().padded(s.over->size())}, s.weights.options());
  s.over->all_gather(whole, s.weights);
  unit->bind(whole);
}

void Units::release(nn::Unit* unit) {
  if (!unit || !options_.release_after_use || !unit->trained() || !unit->data().defined()) return;
  at::Tensor gone = unit->data();
  unit->release();
  gone.fill_(
      std::numeric_limits<double>::quiet_NaN());  // a view that outlived the release shows itself
}

void Units::weights_changed() {
  for (auto& s : shards_)
    if (s.unit->trained() && !(is_whole(s) && !options_.release_after_use)) s.unit->release();
}

void Units::zero_grads() {
  for (auto& s : shards_)
    if (s.unit->trained()) s.unit->grad().zero_();
}

void Units::reduce_grads() {
  for (auto& s : shards_)
    if (s.unit->trained())
      reduce_gradient(s.grad, s.unit->grad(), *s.over, *s.replicas, options_.reduction);
}

at::Tensor Units::squared_gradient_norm() const {
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(options_.device));
  for (const auto& s : shards_)
    if (s.unit->trained() && s.replicas->rank() == 0) ops::add_squared_sum_(sum, s.grad);
  if (world_.size() > 1) world_.all_reduce(sum);
  return sum;
}

}  // namespace conclave::parallel
