#include <ATen/ops/zeros.h>

#include "base/random.h"
#include "ops/random.h"
#include "parallel/units.h"

namespace conclave::parallel {
namespace {

// Fills what lies in this shard of each checkpoint tensor.
void fill_shard(const at::Tensor& shard, const Shard& s, uint64_t seed, double stddev) {
  const auto& pieces = s.unit->layout().pieces;
  for (const auto& w : s.unit->weights())
    for (auto [index, part] : s.unit->layout().pieces_in(s.range)) {
      const auto& piece = pieces[static_cast<size_t>(index)];
      if (piece.at.begin < w->at().begin || piece.at.end > w->at().end) continue;
      at::Tensor to = shard.narrow(0, part.begin - s.range.begin, part.size());
      if (w->init() == nn::Init::normal)
        ops::fill_normal_(to, seed, hash_name(piece.name),
                          piece.first + part.begin - piece.at.begin, stddev);
      else
        to.fill_(w->init() == nn::Init::ones ? 1 : 0);
    }
}

}  // namespace

void initialise(Units& units, uint64_t seed, double stddev, const TakeMaster& master) {
  for (size_t i = 0; i < units.shards().size(); ++i) {
    const Shard& s = units.shards()[i];
    fill_shard(s.weights, s, seed, stddev);
    if (!master || !s.unit->trained() || s.unit->dtype() != at::kBFloat16) continue;
    const at::Tensor exact = at::zeros({s.range.size()}, s.weights.options().dtype(at::kFloat));
    fill_shard(exact, s, seed, stddev);
    master(i, exact);
  }
  units.weights_changed();
}

}  // namespace conclave::parallel
