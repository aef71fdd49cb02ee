#include "train/state.h"

#include <ATen/ops/full.h>

#include <bit>
#include <optional>

#include "base/error.h"
#include "checkpoint/rank_files.h"
#include "checkpoint/stored.h"

namespace conclave::train {
namespace {

// Calls f(piece, its part of `flat`, the part's first element within the piece) for each piece of
// each shard.
template <class F>
void each_piece(parallel::Units& units, const OfShard& of, const F& f) {
  for (size_t i = 0; i < units.shards().size(); ++i) {
    const auto& s = units.shards()[i];
    const at::Tensor flat = of(i);
    if (!flat.defined()) continue;
    for (auto [index, part] : s.unit->layout().pieces_in(s.range)) {
      const auto& piece = s.unit->layout().pieces[static_cast<size_t>(index)];
      f(piece, flat.narrow(0, part.begin - s.range.begin, part.size()),
        piece.first + part.begin - piece.at.begin);
    }
  }
}

// Calls f(name) for all tensors of the decoder's units, those too that other ranks hold.
template <class F>
void each_name(const parallel::Units& units, const F& f) {
  for (const auto& unit : units.decoder().units)
    for (const comm::StoredTensor& tensor : unit->layout().tensors) f(tensor.name);
}

// The names of all weights of the decoder, in every form that files may hold them in.
void add_all_names(const parallel::Units& units, std::vector<std::string>& names) {
  using checkpoint::Form;
  each_name(units, [&](const std::string& tensor) {
    for (Form form : {Form::plain, Form::fp8, Form::mxfp4})
      for (std::string& name : checkpoint::names_of(tensor, form)) names.push_back(std::move(name));
  });
}

// The numbers of a TrainState by name; the same list reads and writes.
template <class F>
void each_number(TrainState& s, const F& f) {
  f("step", s.step);
  f("sample", s.sample);
  f("skipped", s.skipped);
  f("tokens", s.tokens);
  f("data", s.data);
  f("best_validation", s.best_validation);
}

// Likewise of its capacity, which a state may be without.
template <class F>
void each_capacity(comm::CapacityState& s, const F& f) {
  f("capacity.ranks", s.ranks);
  f("capacity.tokens", s.tokens);
  f("capacity.peer_rows", s.now.peer_rows);
  f("capacity.expert_rows", s.now.expert_rows);
  f("capacity.seen_peer_rows", s.seen.peer_rows);
  f("capacity.seen_expert_rows", s.seen.expert_rows);
  f("capacity.again", s.again);
}

}  // namespace

std::vector<checkpoint::NamedTensor> named_tensors(parallel::Units& units, const OfShard& of,
                                                   const std::string& suffix) {
  std::vector<checkpoint::NamedTensor> out;
  each_piece(units, of, [&](const comm::Piece& piece, const at::Tensor& part, int64_t first) {
    TORCH_CHECK(first == 0 && part.numel() == piece.at.size(), piece.name,
                ": expected a whole tensor; saving is for one rank");
    const at::Tensor whole = part.view(piece.shape);
    out.push_back({piece.name + suffix, piece.transposed ? whole.transpose(-2, -1) : whole});
  });
  return out;
}

std::vector<checkpoint::LoadTarget> load_targets(parallel::Units& units, const OfShard& of,
                                                 const std::string& suffix) {
  std::vector<checkpoint::LoadTarget> out;
  each_piece(units, of, [&](const comm::Piece& piece, const at::Tensor& part, int64_t first) {
    out.push_back({piece.name + suffix, piece.shape, part, first, piece.transposed});
  });
  return out;
}

std::vector<checkpoint::NamedTensor> weight_tensors(parallel::Units& units) {
  auto out = named_tensors(units, [&](size_t i) { return units.shards()[i].weights; });
  std::map<std::string, at::Tensor> by_name;
  for (const auto& tensor : out) by_name[tensor.name] = tensor.data;
  for (const auto& [name, weight] : units.decoder().copies)
    out.push_back({name, by_name.at(weight->name())});
  return out;
}

void load_weights(const checkpoint::HfFolder& folder, parallel::Units& units, const OfShard& into) {
  std::vector<std::string> beside = units.decoder().beside;
  if (units.comm().size() > 1) add_all_names(units, beside);  // other ranks hold parts
  beside.push_back("*.rotary_emb.inv_freq");                  // older exports have it
  for (const auto& [name, weight] : units.decoder().copies) beside.push_back(name);
  checkpoint::load_tensors(folder, load_targets(units, into), beside);
  units.weights_changed();
}

std::vector<checkpoint::NamedTensor> number_tensors(const TrainState& state) {
  std::vector<checkpoint::NamedTensor> numbers;
  TrainState copy = state;
  const auto add = [&](const char* name, auto& number) {
    using T = std::decay_t<decltype(number)>;
    if constexpr (std::is_same_v<T, double>)
      numbers.push_back({name, at::full({}, number, at::kDouble)});
    else
      numbers.push_back({name, at::full({}, std::bit_cast<int64_t>(number), at::kLong)});
  };
  each_number(copy, add);
  if (state.capacity.ranks > 0) each_capacity(copy.capacity, add);
  return numbers;
}

checkpoint::FolderContents contents_of(parallel::Units& units, optim::AdamW& optimizer,
                                       const TrainState& state) {
  checkpoint::FolderContents c;
  c.tensors = weight_tensors(units);
  auto& moments = c.beside["optimizer.safetensors"];
  auto add = [&](const OfShard& of, const char* suffix) {
    for (auto& t : named_tensors(units, of, suffix)) moments.push_back(std::move(t));
  };
  add([&](size_t i) { return optimizer.m(i); }, ".m");
  add([&](size_t i) { return optimizer.v(i); }, ".v");
  add([&](size_t i) { return optimizer.lo(i); }, ".lo");
  c.beside["train_state.safetensors"] = number_tensors(state);
  return c;
}

TrainState restore(const std::string& folder, parallel::Units& units, optim::AdamW& optimizer) {
  std::optional<checkpoint::RankFiles> by_rank;
  if (checkpoint::has_rank_files(folder)) by_rank.emplace(folder);
  const OfShard weights = [&](size_t i) { return units.shards()[i].weights; };
  if (by_rank) {
    checkpoint::load_tensors(*by_rank, "", load_targets(units, weights));
    units.weights_changed();
  } else {
    load_weights(checkpoint::HfFolder(folder), units, weights);
  }
  std::vector<checkpoint::LoadTarget> targets;
  std::vector<std::string> others;  // other ranks hold parts
  auto add = [&](const OfShard& of, const char* suffix) {
    for (auto& t : load_targets(units, of, suffix)) targets.push_back(std::move(t));
    if (units.comm().size() > 1)
      each_name(units, [&](const std::string& name) { others.push_back(name + suffix); });
  };
  add([&](size_t i) { return optimizer.m(i); }, ".m");
  add([&](size_t i) { return optimizer.v(i); }, ".v");
  add([&](size_t i) { return optimizer.lo(i); }, ".lo");
  if (by_rank)
    checkpoint::load_tensors(*by_rank, "optimizer.safetensors", targets);
  else
    checkpoint::load_tensors(checkpoint::SafetensorsFile(folder + "/optimizer.safetensors"),
                             targets, others);
  const std::string file = folder + "/train_state.safetensors";
  const auto numbers =
      by_rank ? by_rank->read("train_state.safetensors") : checkpoint::read_tensors(file);
  TrainState state;
  const auto read = [&](const char* name, auto& number) {
    using T = std::decay_t<decltype(number)>;
    const auto found = numbers.find(name);
    const auto dtype = std::is_same_v<T, double> ? at::kDouble : at::kLong;
    if (found == numbers.end() || found->second.scalar_type() != dtype ||
        found->second.numel() != 1)
      throw RunError(
          file + ": expected one number `" + name +
          "`; the checkpoint is of another version, start again from its weights with model.from");
    if constexpr (std::is_same_v<T, double>)
      number = found->second.template item<double>();
    else
      number = std::bit_cast<T>(found->second.template item<int64_t>());
  };
  each_number(state, read);
  if (numbers.count("capacity.ranks")) each_capacity(state.capacity, read);
  optimizer.set_steps(state.step - state.skipped);
  return state;
}

}  // namespace conclave::train
