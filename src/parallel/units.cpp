#include "parallel/units.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
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

bool poison_wanted() {
  const char* said = std::getenv("CONCLAVE_POISON");
  return said && std::strcmp(said, "on") == 0;
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
  }
  options_.poison |= poison_wanted();
  place_gathered(is_experts);
}

// A ring for each kind of unit that is gathered; the others are bound for good.
void Units::place_gathered(const std::function<bool(const nn::Unit*)>& is_experts) {
  std::map<std::string, int> rings;
  gathering_.resize(shards_.size());
  for (size_t i = 0; i < shards_.size(); ++i) {
    const Shard& s = shards_[i];
    reduces_ |= s.over->size() > 1 || s.replicas->size() > 1;
    const auto of_layer = [&] {
      for (size_t l = 0; l < decoder_.layers.size() + decoder_.mtp.size(); ++l)
        if (decoder_.layer(l).dense == s.unit) return true;
      return false;
    };
    if (!s.unit->trained() || (is_whole(s) && !options_.release_after_use))
      s.unit->bind(s.weights);
    else if (!options_.release_after_use)
      choose_ring(i, s.unit->name(), 1, rings);
    else if (is_experts(s.unit))
      choose_ring(i, "experts", 2, rings);
    else
      choose_ring(i, of_layer() ? "layers" : s.unit->name(), 2, rings);
  }
  changed_ = comm::Mark::here(options_.device);
  if (!options_.overlap) return;
  if (gathers()) gather_lane_.open("gather", options_.device);
  if (reduces_) reduce_lane_.open("reduce", options_.device);
}

size_t Units::index_of(const nn::Unit* unit) const {
  for (size_t i = 0; i < shards_.size(); ++i)
    if (shards_[i].unit == unit) return i;
  TORCH_CHECK(false, "unit ", unit->name(), " is not one of this decoder's");
}

void Units::choose_ring(size_t i, const std::string& kind, size_t slots,
                        std::map<std::string, int>& rings) {
  const Shard& s = shards_[i];
  const auto [found, is_new] = rings.try_emplace(kind, static_cast<int>(rings_.size()));
  if (is_new) rings_.push_back({.dtype = s.unit->dtype()});
  Ring& ring = rings_[static_cast<size_t>(found->second)];
  ring.numel = std::max(ring.numel, s.unit->layout().padded(s.over->size()));
  ring.slots_wanted = std::min(ring.slots_wanted + 1, slots);
  gathering_[i].ring = found->second;
}

int64_t Units::gathered_bytes() const {
  int64_t bytes = 0;
  for (const Ring& r : rings_)
    bytes += static_cast<int64_t>(r.slots_wanted) * r.numel *
             static_cast<int64_t>(c10::elementSize(r.dtype));
  return bytes;
}

// Takes a slot and starts gathering into it, unless that was done.
bool Units::start(size_t i, bool may_add_slot) {
  Gathering& g = gathering_[i];
  if (g.ring < 0) return false;
  if (g.slot >= 0) return true;
  Ring& ring = rings_[static_cast<size_t>(g.ring)];
  auto slot =
      std::find_if(ring.slots.begin(), ring.slots.end(), [](const Slot& s) { return !s.taken; });
  if (slot == ring.slots.end()) {
    if (!may_add_slot && ring.slots.size() >= ring.slots_wanted) return false;
    slot = ring.slots.emplace(slot);
    slot->data =
        at::empty({ring.numel}, at::TensorOptions().dtype(ring.dtype).device(options_.device));
    slot->used = comm::Mark::here(options_.device);
  }
  const Shard& s = shards_[i];
  at::Tensor whole = slot->data.narrow(0, 0, s.unit->layout().padded(s.over->size()));
  const comm::Mark behind[] = {changed_, slot->used};
  slot->arrives = gather_lane_.start_behind(behind, [&] { s.over->all_gather(whole, s.weights); });
  slot->taken = true;
  g.slot = static_cast<int>(slot - ring.slots.begin());
  return true;
}

bool Units::prefetch(nn::Unit* unit) { return start(index_of(unit), /*may_add_slot=*/false); }

void Units::gather(nn::Unit* unit) {
  if (!unit || unit->data().defined()) return;
  const size_t i = index_of(unit);
  const Gathering& g = gathering_[i];
  TORCH_CHECK(start(i, /*may_add_slot=*/true), unit->name(), ": is never gathered, and not bound");
  Slot& slot = rings_[static_cast<size_t>(g.ring)].slots[static_cast<size_t>(g.slot)];
  slot.arrives.wait();
  unit->bind(slot.data.narrow(0, 0, unit->layout().padded(shards_[i].over->size())));
}

void Units::hold(nn::Unit* unit) { ++gathering_[index_of(unit)].holds; }

void Units::release(nn::Unit* unit) {
  if (!unit || !options_.release_after_use || !unit->trained()) return;
  const size_t i = index_of(unit);
  Gathering& g = gathering_[i];
  if (g.holds > 0) --g.holds;
  if (g.holds == 0 && g.slot >= 0) vacate(i);
}

// Gives the slot back: what comes into it next waits for all that was launched so far.
void Units::vacate(size_t i) {
  Gathering& g = gathering_[i];
  Slot& slot = rings_[static_cast<size_t>(g.ring)].slots[static_cast<size_t>(g.slot)];
  slot.arrives.wait();
  shards_[i].unit->release();
  if (options_.poison) slot.data.fill_(std::numeric_limits<double>::quiet_NaN());
  slot.used = comm::Mark::here(options_.device);
  slot.taken = false;
  g.slot = -1;
}

void Units::weights_changed() {
  for (size_t i = 0; i < shards_.size(); ++i) {
    gathering_[i].holds = 0;
    if (gathering_[i].slot >= 0) vacate(i);
  }
  if (gathers()) changed_ = comm::Mark::here(options_.device);
}

void Units::zero_grads() {
  for (size_t i = 0; i < shards_.size(); ++i) {
    gathering_[i].reduced = false;
    if (shards_[i].unit->trained()) shards_[i].unit->grad().zero_();
  }
}

void Units::reduce(nn::Unit* unit) {
  const size_t i = index_of(unit);
  const Shard& s = shards_[i];
  if (gathering_[i].reduced || !unit->trained()) return;
  gathering_[i].reduced = true;
  if (s.over->size() == 1 && s.replicas->size() == 1) return;
  reducing_ = reduce_lane_.start(
      [&] { reduce_gradient(s.grad, unit->grad(), *s.over, *s.replicas, options_.reduction); }, {});
}

void Units::reduce_grads() {
  for (auto& s : shards_) reduce(s.unit);
  reducing_.wait();
  for (Ring& ring : rings_)  // the shards are read no more: they may be written
    for (Slot& slot : ring.slots) slot.arrives.wait();
}

at::Tensor Units::squared_gradient_norm() const {
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(options_.device));
  for (const auto& s : shards_)
    if (s.unit->trained() && s.replicas->rank() == 0) ops::add_squared_sum_(sum, s.grad);
  if (world_.size() > 1) world_.all_reduce(sum);
  return sum;
}

}  // namespace conclave::parallel
