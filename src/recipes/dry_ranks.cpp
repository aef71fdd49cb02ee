#include "recipes/dry_ranks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "base/human.h"
#include "base/text.h"
#include "comm/dry_groups.h"
#include "parallel/dry_step.h"
#include "recipes/dry_run.h"
#include "recipes/model_io.h"
#include "recipes/ranks.h"
#include "recipes/shape.h"

namespace conclave::recipes {
namespace {

// layers.12.experts → layers.*.experts
std::string kind_of(const std::string& unit) {
  std::string kind;
  for (char c : unit)
    if (c < '0' || c > '9')
      kind += c;
    else if (!kind.ends_with('*'))
      kind += '*';
  return kind;
}

void count(parallel::Units& units, DryRanks& rank) {
  rank.gathered = units.gathered_bytes();
  for (const auto& s : units.shards()) {
    const auto bytes = [](const at::Tensor& t) { return static_cast<int64_t>(t.nbytes()); };
    const bool experts = s.unit->name().ends_with(".experts");
    (experts ? rank.expert_weights : rank.dense_weights) += bytes(s.weights);
    if (!s.unit->trained()) continue;
    const auto element = static_cast<int64_t>(s.weights.element_size());
    const int64_t whole = s.unit->layout().padded(s.over->size());
    rank.gradients += bytes(s.grad);
    rank.moments += 2 * bytes(s.grad) + (element == 2 ? 2 : 0) * s.range.size();
    if (s.over->size() > 1)
      rank.whole_gradients += static_cast<int64_t>(s.grad.element_size()) * whole;
    const DryUnits unit{kind_of(s.unit->name()), 1, whole, experts ? "ep_shard" : "dp_shard",
                        s.over->size()};
    const auto same = std::find_if(rank.units.begin(), rank.units.end(), [&](const DryUnits& u) {
      return u.name == unit.name && u.elements == whole;
    });
    if (same == rank.units.end())
      rank.units.push_back(unit);
    else
      ++same->count;
  }
}

DryRanks run_dry(const PretrainConfig& c, const ModelChoice& choice, const comm::RankLayout& layout,
                 int rank) {
  DryRanks out{.layout = layout};
  comm::DryFactory factory(rank, layout.world(), out.ledger);
  const Model m = make_model(choice.config, choice.from,
                             {.dtype = parse_dtype(c.dtype, "dtype"),
                              .device = at::kMeta,
                              .training = true,
                              .coefs = router_coefs(c.model),
                              .places = choice.places,
                              .mtp = choice.mtp_weight != 0,
                              .ranks = &factory,
                              .layout = layout,
                              .release_weights = c.parallel.weights == "release"});
  count(*m.units, out);
  const int64_t rows = std::max<int64_t>(c.batch.rows / layout.world(), 1),
                at_once = rows_at_once(c, layout.world()), tokens = at_once * c.data.seq_len;
  const comm::LoadFacts facts = load_facts(shape_of(*m.decoder), tokens, layout.ep);
  out.experts = facts.experts;
  if (c.parallel.capacity) {
    comm::CapacityState begin;
    comm::CapacityRule(facts, *c.parallel.capacity).begin(begin);
    out.capacity = begin.now;
  }
  comm::DryDispatcher dispatcher(
      *m.groups.ep, out.capacity ? out.capacity->peer_rows : comm::even_load(facts).peer_rows,
      out.capacity.has_value());
  parallel::RunOptions run;
  run.recompute = {c.memory.recompute.begin(), c.memory.recompute.end()};
  run.mtp_weight = choice.mtp_weight;
  parallel::dry_step(*m.decoder, *m.units, dispatcher,
                     {.tokens = tokens,
                      .micro_batches = (rows + at_once - 1) / at_once,
                      .run = run,
                      .capacity = out.capacity.has_value()});
  return out;
}

int ranks_of(const comm::ParallelConfig& p) {
  const bool dense = p.dp_replicate || p.dp_shard;
  return static_cast<int>(dense ? p.dp_replicate.value_or(1) * p.dp_shard.value_or(1)
                                : p.ep.value_or(1) * p.ep_replicate.value_or(1));
}

}  // namespace

std::optional<DryRanks> dry_ranks(const PretrainConfig& c, const ConfigSource& source,
                                  const ModelChoice& choice, const nn::Decoder& decoder) {
  const auto place = place_here();
  const int ranks = place ? place->world : ranks_of(c.parallel);
  if (ranks == 1) return std::nullopt;
  const int per_node = place                       ? place->local_world
                       : ranks % kRanksOfNode == 0 ? kRanksOfNode
                                                   : ranks;
  const comm::RankLayout layout = layout_of(c, source, decoder, ranks, per_node);
  DryRanks first = run_dry(c, choice, layout, 0);
  const DryRanks last = run_dry(c, choice, layout, layout.world() - 1);
  TORCH_CHECK(first.ledger.rows() == last.ledger.rows(), "dry run: ranks 0 and ",
              layout.world() - 1, " make other calls");
  return first;
}

std::string ranks_page(const DryRanks& r) {
  std::string text = format("# %d ranks: %s\nA rank's units, elements of each before it is cut\n",
                            r.layout.world(), r.layout.text().c_str());
  for (const DryUnits& u : r.units)
    text += format("%5lld × %-22s%12lld", static_cast<long long>(u.count), u.name.c_str(),
                   static_cast<long long>(u.elements)) +
            (u.ranks > 1 ? format("  cut over the %d ranks of %s\n", u.ranks, u.group.c_str())
                         : std::string("  whole\n"));
  const std::string routing =
      r.capacity ? format("with room for %lld rows to each rank and %lld for its experts",
                          static_cast<long long>(r.capacity->peer_rows),
                          static_cast<long long>(r.capacity->expert_rows))
                 : "even routing";
  return text + "What it sends or gets in a step, " + routing + "; whole buffers\n" +
         r.ledger.table() + "\n";
}

int64_t rows_at_once(const PretrainConfig& c, int ranks) {
  return std::clamp<int64_t>(c.batch.rows / ranks, 1, c.batch.micro_rows);
}

plan::MemoryForecast memory_of(const DryRanks& r, const plan::MemoryForecast& one) {
  plan::MemoryForecast rank;
  rank.rows = {{"weights", r.dense_weights + r.expert_weights},
               {"gathered weights", r.gathered},
               {"gradients", r.gradients},
               {"gradients to be summed", r.whole_gradients},
               {"optimizer", r.moments}};
  const std::set<std::string> counted{"weights", "master, low bits", "gradients",
                                      "optimizer moments", "copy for saving"};
  for (const plan::MemoryRow& row : one.rows)
    if (!counted.count(row.what)) rank.rows.push_back(row);
  return rank;
}

namespace {

// What a rank gives to each operation of a group.
std::vector<std::pair<std::string, int64_t>> traffic(const comm::Ledger& ledger,
                                                     const std::string& group) {
  std::map<std::string, int64_t> sums;
  for (const comm::LedgerRow& row : ledger.rows())
    if (row.group == group) sums[row.op] += row.bytes;
  return {sums.begin(), sums.end()};
}

// Groups along an axis of a mesh; nothing where they have one rank each.
void add_groups(const comm::Mesh& mesh, const char* axis, const char* what,
                const comm::Ledger& ledger, plan::RankPicture& picture) {
  if (mesh.axis(axis).size == 1) return;
  plan::RankGroups groups{.name = axis, .what = what, .traffic = traffic(ledger, axis)};
  std::map<int, int> number;  // of the group by its first rank
  for (int rank = 0; rank < mesh.world(); ++rank)
    groups.group_of.push_back(
        number.emplace(mesh.group(rank, axis).front(), static_cast<int>(number.size()))
            .first->second);
  picture.groups.push_back(std::move(groups));
}

}  // namespace

plan::RankPicture picture_of(const DryRanks& r, const std::string& model) {
  const comm::RankLayout& l = r.layout;
  const comm::Mesh dense = l.dense(), experts = l.experts();
  const auto size = [](int64_t n) { return human_bytes(static_cast<double>(n)); };
  plan::RankPicture p{.title = format("%s on %d ranks", model.c_str(), l.world()),
                      .layout = l.text(),
                      .dense_copies = l.dp_replicate,
                      .dense_parts = l.dp_shard,
                      .expert_parts = l.ep,
                      .expert_cuts = l.ep_shard(),
                      .expert_copies = l.ep_replicate,
                      .experts = r.experts,
                      .dense_bytes = r.dense_weights,
                      .expert_bytes = r.expert_weights,
                      .world = traffic(r.ledger, "world"),
                      .node = kRanksOfNode};
  p.notes = {"Each keeps " + size(r.dense_weights + r.expert_weights) + " of weights, " +
                 size(r.gradients) + " of gradients and " + size(r.moments) +
                 " for the optimizer; in a step it holds " + size(r.gathered) +
                 " of gathered weights",
             "and " + size(r.whole_gradients) +
                 " of gradients before they are summed beside them, and activations."};
  for (int rank = 0; rank < l.world(); ++rank)
    p.ranks.push_back({.dense_copy = dense.coord(rank, "dp_replicate"),
                       .dense_part = dense.coord(rank, "dp_shard"),
                       .expert_part = experts.coord(rank, "ep"),
                       .expert_cut = experts.coord(rank, "ep_shard"),
                       .expert_copy = experts.coord(rank, "ep_replicate")});
  add_groups(dense, "dp_shard", "parts of the dense weights", r.ledger, p);
  add_groups(dense, "dp_replicate", "copies of the dense weights", r.ledger, p);
  add_groups(experts, "ep", "tokens for the experts", r.ledger, p);
  add_groups(experts, "ep_shard", "cuts of the same experts", r.ledger, p);
  add_groups(experts, "ep_replicate", "copies of the same experts", r.ledger, p);
  return p;
}

}  // namespace conclave::recipes
