#include "train/shared_state.h"

#include <map>

namespace conclave::train {
namespace {

using checkpoint::TensorPart;

// Buffers are the same on all ranks; a cut unit on those that hold the same range.
bool is_writer(parallel::Units& units, const parallel::Shard& s) {
  return (s.unit->trained() ? *s.replicas : units.comm()).rank() == 0;
}

void add_unit(parallel::Units& units, const parallel::Shard& s, const at::Tensor& flat,
              const std::string& suffix, std::vector<TensorPart>& out) {
  const comm::UnitLayout& layout = s.unit->layout();
  std::map<std::string, size_t> place;
  for (const comm::StoredTensor& t : layout.tensors) {
    place[t.name] = out.size();
    out.push_back({t.name + suffix, flat.scalar_type(), t.shape, t.transposed});
  }
  if (!is_writer(units, s)) return;
  for (auto [index, part] : layout.pieces_in(s.range)) {
    const comm::Piece& piece = layout.pieces[static_cast<size_t>(index)];
    TensorPart& to = out[place.at(piece.name)];
    to.data = flat.narrow(0, part.begin - s.range.begin, part.size());
    to.first = piece.first + part.begin - piece.at.begin;
  }
}

std::vector<TensorPart> parts_of(parallel::Units& units, const OfShard& of,
                                 const std::string& suffix = "") {
  std::vector<TensorPart> out;
  for (size_t i = 0; i < units.shards().size(); ++i)
    if (const at::Tensor flat = of(i); flat.defined())
      add_unit(units, units.shards()[i], flat, suffix, out);
  return out;
}

}  // namespace

checkpoint::SharedContents shared_contents_of(parallel::Units& units, optim::AdamW& optimizer,
                                              const TrainState& state) {
  checkpoint::SharedContents c;
  c.tensors = parts_of(units, [&](size_t i) { return units.shards()[i].weights; });
  std::map<std::string, size_t> place;
  for (size_t i = 0; i < c.tensors.size(); ++i) place[c.tensors[i].name] = i;
  for (const auto& [name, weight] : units.decoder().copies) {
    TensorPart copy = c.tensors[place.at(weight->name())];
    copy.name = name;
    c.tensors.push_back(std::move(copy));
  }
  auto& moments = c.beside["optimizer.safetensors"];
  const auto add = [&](const OfShard& of, const char* suffix) {
    for (TensorPart& part : parts_of(units, of, suffix)) moments.push_back(std::move(part));
  };
  add([&](size_t i) { return optimizer.m(i); }, ".m");
  add([&](size_t i) { return optimizer.v(i); }, ".v");
  add([&](size_t i) { return optimizer.lo(i); }, ".lo");
  for (const checkpoint::NamedTensor& number : number_tensors(state)) {
    TensorPart part{number.name, number.data.scalar_type(), {}};
    if (units.comm().rank() == 0) part.data = number.data.view({1});
    c.beside["train_state.safetensors"].push_back(std::move(part));
  }
  return c;
}

}  // namespace conclave::train
