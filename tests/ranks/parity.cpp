#include "ranks/parity.h"

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>

#include <cmath>
#include <deque>
#include <mutex>

#include "base/text.h"
#include "ranks/rank.h"

namespace conclave::ranks {
namespace {

constexpr int kSteps = 3;
const std::set<std::string> kClasses = {"norm",     "qkv",     "rotary", "attention",  "linear",
                                        "dispatch", "gate_up", "swiglu", "experts_out"};

// Calls f(name, numel of the whole tensor, first, values) for what this rank holds of each tensor.
template <class Of, class F>
void each_part(parallel::Units& units, const Of& of, const F& f) {
  for (const auto& s : units.shards()) {
    const at::Tensor flat = of(s);
    if (!flat.defined()) continue;
    for (auto [index, part] : s.unit->layout().pieces_in(s.range)) {
      const auto& piece = s.unit->layout().pieces[static_cast<size_t>(index)];
      int64_t numel = 1;
      for (int64_t n : piece.shape) numel *= n;
      f(piece.name, numel, piece.first + part.begin - piece.at.begin,
        flat.narrow(0, part.begin - s.range.begin, part.size()));
    }
  }
}

std::set<std::string> recompute(const RunSpec& run) {
  return run.policy.recompute ? kClasses : std::set<std::string>{};
}

at::Tensor gradient(const parallel::Shard& s) { return s.grad; }
at::Tensor weights(const parallel::Shard& s) { return s.weights; }

Named whole(parallel::Units& units, at::Tensor (*of)(const parallel::Shard&)) {
  Named out;
  each_part(units, of,
            [&](const std::string& name, int64_t numel, int64_t, const at::Tensor& part) {
              TORCH_CHECK(part.numel() == numel, name, ": expected all of it on one rank");
              out[name] = part.clone();
            });
  return out;
}

Reference one_rank(const Family& family, bool short_half) {
  Reference out;
  comm::run_thread_ranks(1, [&](comm::CommFactory& factory) {
    const RunSpec run{.family = &family, .layout = {}, .short_half = short_half};
    Rank rank(run, factory);
    for (int i = 0; i < kSteps; ++i) {
      const train::StepResult r = rank.step(run);
      TORCH_CHECK(!r.skipped && r.grad_norm > 0.5, family.name,
                  ": expected a step that is clipped");
      out.losses.push_back(r.loss), out.mtp_losses.push_back(r.mtp_loss);
      out.auxs.push_back(r.aux), out.norms.push_back(r.grad_norm);
      out.max_loads.push_back(r.max_load);
      out.gradients.push_back(whole(rank.units, gradient));
    }
    out.weights = whole(rank.units, weights);
    out.loads = rank.loads(run);
  });
  return out;
}

// Collects what ranks find; at most a few lines.
class Findings {
 public:
  void add(std::string line) {
    const std::lock_guard lock(mutex_);
    if (lines_.size() < 12) lines_.push_back(std::move(line));
  }
  void near(const std::string& what, double got, double want, double tolerance) {
    if (!(std::abs(got - want) <= tolerance))
      add(format("%s: %.17g, one rank has %.17g", what.c_str(), got, want));
  }
  std::vector<std::string> lines() { return std::move(lines_); }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

// How many ranks hold each element, and whether what they hold is one rank's.
class Coverage {
 public:
  Coverage(const Named& want, Findings& findings) : want_(want), findings_(findings) {
    for (const auto& [name, t] : want) held_[name] = std::vector<int>(t.numel(), 0);
  }
  void take(int rank, const std::string& what, parallel::Units& units,
            at::Tensor (*of)(const parallel::Shard&)) {
    each_part(units, of, [&](const std::string& name, int64_t, int64_t first, const at::Tensor& t) {
      const auto found = want_.find(name);
      if (found == want_.end()) return findings_.add(what + ": one rank has no " + name);
      const double* want = found->second.const_data_ptr<double>() + first;
      const double* got = t.const_data_ptr<double>();
      const double scale = parallel::testing::largest(found->second);
      const double tolerance = 1e-10 * std::clamp(scale, 1e-6, 1.0);
      double most = 0;
      for (int64_t i = 0; i < t.numel(); ++i)
        most = std::isnan(got[i]) ? INFINITY : std::max(most, std::abs(got[i] - want[i]));
      if (!(most <= tolerance))
        findings_.add(format("%s of %s on rank %d: off by %.3g, largest %.3g", what.c_str(),
                             name.c_str(), rank, most, scale));
      const std::lock_guard lock(mutex_);
      for (int64_t i = 0; i < t.numel(); ++i) ++held_[name][static_cast<size_t>(first + i)];
    });
  }
  // Each element `dense` times, one of an expert `experts` times, of a buffer `world` times.
  void expect(int dense, int experts, int world) {
    for (const auto& [name, counts] : held_) {
      const int times = name.find("correction_bias") != std::string::npos ? world
                        : name.find(".experts.") != std::string::npos     ? experts
                                                                          : dense;
      for (int n : counts)
        if (n != times) {
          findings_.add(format("%s: held by %d ranks, expected %d", name.c_str(), n, times));
          break;
        }
    }
  }

 private:
  const Named& want_;
  Findings& findings_;
  std::mutex mutex_;
  std::map<std::string, std::vector<int>> held_;
};

}  // namespace

Rank::Rank(const RunSpec& run, comm::CommFactory& factory, uint64_t seed)
    : groups(comm::make_groups(run.layout, factory)),
      decoder(parallel::testing::make_tiny(run.family->config, {.expert_ranks = groups.ep->size(),
                                                                .expert_rank = groups.ep->rank()})),
      units(decoder, groups,
            {.release_after_use = run.policy.release,
             .reduction = run.policy.reduction,
             .poison = true}),
      dispatcher(comm::make_dispatcher(run.dispatcher, *groups.ep)) {
  if (comm::CapacityDispatcher* fixed = dispatcher->with_capacity())
    fixed->set_capacity(run.capacity.value_or(run.highest_load()));
  parallel::initialise(units, seed, 0.3);
  parallel::testing::fill_correction_biases(decoder);
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  optimizer.emplace(optim::AdamWConfig{}, std::move(shards));
}

std::vector<parallel::Batch> Rank::batches(const RunSpec& run) const {
  const int mine = kRows / run.layout.world(), cut = run.policy.one_row_at_once ? 1 : mine,
            first = groups.world->rank() * mine;
  std::vector<parallel::Batch> out;
  for (int r = 0; r < mine; r += cut) {
    out.push_back(rows_of(first + r, cut, run.short_half));
    out.back().rows.gate = run.gate;
  }
  return out;
}

train::StepResult Rank::step(const RunSpec& run) {
  return train::step(decoder, units, *dispatcher, *optimizer, batches(run),
                     {.lr = 1e-3,
                      .clip_norm = 0.5,
                      .recompute = recompute(run),
                      .bias_rate = 1e-3,
                      .mtp_weight = run.family->mtp_weight,
                      .at_once = run.policy.together ? 2 : 1})
      .wait();
}

std::vector<at::Tensor> Rank::loads(const RunSpec& run) {
  return train::accumulate(decoder, units, *dispatcher, batches(run), recompute(run),
                           run.family->mtp_weight)
      .loads;
}

comm::Capacity RunSpec::highest_load() const {
  const auto facts = parallel::testing::make_tiny(family->config).layers.back().facts;
  const int64_t rows = policy.one_row_at_once ? 1 : kRows / layout.world();
  return comm::highest_load(
      {.tokens = 8 * rows, .experts = facts.experts, .top_k = facts.top_k, .ranks = layout.ep});
}

std::string Policy::text() const {
  std::string text;
  if (recompute) text += ", recompute";
  if (one_row_at_once) text += ", one row at once";
  if (together) text += ", two at a time";
  if (release) text += ", release";
  if (reduction == parallel::Reduction::all_to_all) text += ", sums in rank order";
  return text;
}

std::string RunSpec::text() const {
  return std::string(family->name) + ", " + layout.text() +
         (layout.ep > 1 ? ", " + dispatcher : "") + policy.text();
}

const Reference& reference(const Family& family, bool short_half) {
  static std::map<std::pair<std::string, bool>, Reference> known;
  const std::pair<std::string, bool> key(family.name, short_half);
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, one_rank(family, short_half)).first;
  return found->second;
}

std::vector<std::string> differences(const RunSpec& run) {
  at::set_num_threads(1);  // ranks are the threads
  const Reference& want = reference(*run.family, run.short_half);
  Findings findings;
  std::deque<Coverage> gradients;
  for (const Named& g : want.gradients) gradients.emplace_back(g, findings);
  Coverage last(want.weights, findings);
  comm::run_thread_ranks(run.layout.world(), [&](comm::CommFactory& factory) {
    at::set_num_threads(1);
    Rank rank(run, factory);
    const int me = factory.rank();
    for (size_t i = 0; i < kSteps; ++i) {
      const train::StepResult r = rank.step(run);
      const std::string step = "step " + std::to_string(i + 1);
      if (r.left_out) findings.add(step + " left rows out");
      findings.near(step + " loss", r.loss, want.losses[i], 1e-12);
      findings.near(step + " mtp loss", r.mtp_loss, want.mtp_losses[i], 1e-12);
      findings.near(step + " aux", r.aux, want.auxs[i], 1e-12);
      findings.near(step + " gradient norm", r.grad_norm, want.norms[i], 1e-10);
      findings.near(step + " largest load", r.max_load, want.max_loads[i], 0);
      gradients[i].take(me, step + " gradient", rank.units, gradient);
    }
    last.take(me, "weights", rank.units, weights);
    const std::vector<at::Tensor> loads = rank.loads(run);
    for (size_t i = 0; i < want.loads.size(); ++i)
      if (want.loads[i].defined() && !at::equal(loads[i], want.loads[i]))
        findings.add(format("loads of layer %zu on rank %d are not one rank's", i, me));
  });
  const comm::RankLayout& l = run.layout;
  last.expect(l.dp_replicate, l.ep_replicate, l.world());
  for (Coverage& g : gradients) g.expect(l.dp_replicate, l.ep_replicate, l.world());
  return findings.lines();
}

std::vector<comm::RankLayout> layouts(int world, int64_t experts) {
  std::vector<comm::RankLayout> all;
  for (int shard = 1; shard <= world; ++shard)
    for (int ep = 1; ep <= world; ++ep)
      for (int copies = 1; copies <= world; ++copies)
        if (world % shard == 0 && world % (ep * copies) == 0 && experts % ep == 0)
          all.push_back(
              {.dp_replicate = world / shard, .dp_shard = shard, .ep = ep, .ep_replicate = copies});
  return all;
}

}  // namespace conclave::ranks
