// A small model as one rank has it and as several do, cut at random places.
#pragma once
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/shared_save.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {

struct Whole {
  std::string name;
  at::Tensor data;  // as it lies here
  bool transposed;
};

inline const std::vector<Whole>& model() {
  static const std::vector<Whole> all = {
      {"embedding", patterned({7, 5}, at::kFloat, 1), false},
      {"experts.gate_up", patterned({3, 5, 8}, at::kBFloat16, 2), true},
      {"matrix", patterned({9, 4}, at::kDouble, 3), true},
      {"norm", patterned({11}, at::kBFloat16, 4), false},
      {"experts.down", patterned({3, 4, 5}, at::kFloat, 5), true},
      {"empty", patterned({0, 4}, at::kFloat, 6), false}};
  return all;
}

inline at::Tensor as_stored(const Whole& w) {
  return w.transposed ? w.data.transpose(-2, -1) : w.data;
}

inline FolderContents by_one(int64_t max_shard_bytes) {
  FolderContents c;
  c.config_json = "{}";
  for (const Whole& w : model()) c.tensors.push_back({w.name, as_stored(w)});
  for (const Whole& w : model())
    c.beside["optimizer.safetensors"].push_back({w.name + ".m", as_stored(w)});
  c.files["tokenizer.json"] = "[1]";
  c.max_shard_bytes = max_shard_bytes;
  return c;
}

// Each tensor in `ranks` ranges at random places, some empty; this rank's. A rank without elements
// may say so with an empty tensor or with none.
inline SharedContents by_rank(int rank, int ranks, int64_t max_shard_bytes, unsigned seed) {
  std::mt19937 draw(seed);
  SharedContents c;
  c.config_json = "{}";
  const auto part = [&](const Whole& w, const std::string& suffix) {
    std::vector<int64_t> cuts{0, w.data.numel()};
    for (int r = 1; r < ranks; ++r)
      cuts.push_back(static_cast<int64_t>(draw()) % (w.data.numel() + 1));
    std::sort(cuts.begin(), cuts.end());
    const int64_t first = cuts[static_cast<size_t>(rank)],
                  n = cuts[static_cast<size_t>(rank) + 1] - first;
    TensorPart p{w.name + suffix, w.data.scalar_type(), w.data.sizes().vec(), w.transposed};
    if (n > 0 || rank % 2 == 0) p.data = w.data.view({-1}).narrow(0, first, n), p.first = first;
    return p;
  };
  for (const Whole& w : model()) c.tensors.push_back(part(w, ""));
  for (const Whole& w : model()) c.beside["optimizer.safetensors"].push_back(part(w, ".m"));
  c.files["tokenizer.json"] = "[1]";
  c.max_shard_bytes = max_shard_bytes;
  return c;
}

inline std::map<std::string, std::string> files_of(const std::filesystem::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().filename() != kManifestName)
      files[entry.path().filename()] = read_file(entry.path());
  return files;
}

}  // namespace conclave::checkpoint
