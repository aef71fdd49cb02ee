#include <ATen/ops/empty.h>

#include "base/random.h"
#include "ops/adamw.h"
#include "parallel/units.h"

namespace conclave::parallel {
namespace {

// Fills the part of one checkpoint tensor that lies in this shard.
template <class T>
void fill_piece(T* shard, const Shard& s, const comm::Piece& piece, comm::Interval part,
                nn::Init init, uint64_t seed, double stddev) {
  T* out = shard + (part.begin - s.range.begin);
  if (init == nn::Init::normal)
    fill_normal(out, seed, hash_name(piece.name),
                static_cast<uint64_t>(part.begin - piece.at.begin),
                static_cast<uint64_t>(part.size()), stddev);
  else
    std::fill(out, out + part.size(), init == nn::Init::ones ? T(1) : T(0));
}

template <class T>
void fill_shard(T* shard, const Shard& s, uint64_t seed, double stddev) {
  const auto& pieces = s.unit->layout().pieces;
  for (const auto& w : s.unit->weights())
    for (auto [index, part] : s.unit->layout().pieces_in(s.range)) {
      const auto& piece = pieces[static_cast<size_t>(index)];
      if (piece.at.begin >= w->at().begin && piece.at.end <= w->at().end)
        fill_piece(shard, s, piece, part, w->init(), seed, stddev);
    }
}

}  // namespace

void initialise(Units& units, uint64_t seed, double stddev, std::vector<at::Tensor>* master) {
  if (master) master->clear();
  for (auto& s : units.shards()) {
    at::Tensor exact = s.weights;
    if (s.unit->dtype() == at::kBFloat16) {
      exact = at::empty({s.range.size()}, at::kFloat);
      exact.zero_();
    }
    if (exact.scalar_type() == at::kDouble)
      fill_shard(exact.data_ptr<double>(), s, seed, stddev);
    else
      fill_shard(exact.data_ptr<float>(), s, seed, stddev);
    if (!exact.is_same(s.weights)) s.weights.copy_(exact);
    if (master) master->push_back(exact.is_same(s.weights) ? at::Tensor() : exact);
  }
  units.weights_changed();
}

}  // namespace conclave::parallel
