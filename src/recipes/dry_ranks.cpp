#include "recipes/dry_ranks.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>

#include "base/human.h"
#include "base/text.h"
#include "comm/dry_groups.h"
#include "parallel/dry_step.h"
#include "recipes/dry_run.h"
#include "recipes/model_io.h"

namespace conclave::recipes {
namespace {

// Rows that each rank of an ep group gets from another in the mean, where experts are chosen
// uniformly: tokens times the chance that one of top_k distinct experts is the rank's.
int64_t rows_each(int64_t tokens, int64_t experts, int64_t top_k, int64_t ranks) {
  double none = 1;
  for (int64_t j = 0; j < top_k; ++j)
    none *= static_cast<double>(experts - experts / ranks - j) / static_cast<double>(experts - j);
  return static_cast<int64_t>(std::ceil(static_cast<double>(tokens) * (1 - std::max(none, 0.0))));
}

struct DryRank {
  comm::Ledger ledger;
  // Bytes that stay: weights, gradients, and of those that are cut the gathered weights and whole
  // gradients; AdamW's moments and low bits.
  int64_t weights = 0, gradients = 0, gathered = 0, whole_gradients = 0, moments = 0;
};

void count(parallel::Units& units, DryRank& rank) {
  rank.gathered = units.gathered_bytes();
  for (const auto& s : units.shards()) {
    const auto element = static_cast<int64_t>(s.weights.element_size());
    rank.weights += static_cast<int64_t>(s.weights.nbytes());
    if (!s.unit->trained()) continue;
    rank.gradients += static_cast<int64_t>(s.grad.nbytes());
    rank.moments +=
        2 * static_cast<int64_t>(s.grad.nbytes()) + (element == 2 ? 2 : 0) * s.range.size();
    if (s.over->size() == 1) continue;
    const int64_t whole = s.unit->layout().padded(s.over->size());
    rank.whole_gradients += static_cast<int64_t>(s.grad.element_size()) * whole;
  }
}

DryRank run_dry(const PretrainConfig& c, const ModelChoice& choice, const comm::RankLayout& layout,
                int rank) {
  DryRank out;
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
                at_once = std::min(rows, c.batch.micro_rows), tokens = at_once * c.data.seq_len;
  int64_t each = 0;
  for (const auto& layer : m.decoder->layers)
    if (layer.facts.experts > 0)
      each = rows_each(tokens, layer.facts.experts, layer.facts.top_k, layout.ep);
  comm::DryDispatcher dispatcher(*m.groups.ep, each);
  parallel::RunOptions run;
  run.recompute = {c.memory.recompute.begin(), c.memory.recompute.end()};
  run.mtp_weight = choice.mtp_weight;
  parallel::dry_step(
      *m.decoder, *m.units, dispatcher,
      {.tokens = tokens, .micro_batches = (rows + at_once - 1) / at_once, .run = run});
  return out;
}

std::string line(const char* what, int64_t bytes) {
  return format("%-28s%12s\n", what, human_bytes(static_cast<double>(bytes)).c_str());
}

}  // namespace

std::string ranks_page(const PretrainConfig& c, const ModelChoice& choice) {
  const int64_t world = c.parallel.dp_replicate.value_or(1) * c.parallel.dp_shard.value_or(1);
  if (world == 1) return "";
  int64_t experts = 0;
  const nn::Decoder whole =
      describe_model(choice.config, choice.from,
                     {.dtype = parse_dtype(c.dtype, "dtype"), .places = choice.places});
  for (const auto& layer : whole.layers) experts = std::max(experts, layer.facts.experts);
  const comm::RankLayout layout =
      comm::make_layout(c.parallel,
                        {.world = static_cast<int>(world),
                         .ranks_per_node = static_cast<int>(world),
                         .experts = experts},
                        [](const std::string& key, const std::string& what) {
                          return ConfigError("`parallel." + key + "`: " + what);
                        });
  const DryRank first = run_dry(c, choice, layout, 0),
                last = run_dry(c, choice, layout, layout.world() - 1);
  TORCH_CHECK(first.ledger.rows() == last.ledger.rows(), "dry run: ranks 0 and ",
              layout.world() - 1, " make other calls");
  return format("# %d ranks: %s\n", layout.world(), layout.text().c_str()) +
         "What a rank holds, beside activations\n" + line("  weights", first.weights) +
         line("  gathered of others", first.gathered) + line("  gradients", first.gradients) +
         line("  before they are summed", first.whole_gradients) +
         line("  optimizer", first.moments) +
         "What it sends or gets in a step, even routing; whole buffers\n" + first.ledger.table() +
         "\n";
}

}  // namespace conclave::recipes
