#include "checkpoint/folder.h"

#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/rank_files.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;
using WeightMap = std::map<std::string, std::string>;  // tensor → file

WeightMap read_index(const fs::path& path) {
  const nlohmann::json index = read_json(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    throw RunError(path.string() + ": expected an object `weight_map` of tensor names and files");
  WeightMap map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw RunError(path.string() + ": `" + name + "`: expected a file name");
    const auto shard = file.get<std::string>();
    if (shard.empty() || shard[0] == '.' ||
        shard.find_first_of(std::string("/\\\0", 3)) != std::string::npos)
      throw RunError(path.string() + ": `" + name +
                     "`: expected the plain name of a file in this folder, got `" + shard + "`");
    map[name] = shard;
  }
  return map;
}

[[noreturn]] void no_weights(const fs::path& folder) {
  if (has_rank_files(folder))
    throw RunError(folder.string() +
                   ": is a checkpoint in one file a rank; make a model folder of it: "
                   "conclave merge " +
                   folder.string());
  const bool pickled = path_exists(folder / "pytorch_model.bin") ||
                       path_exists(folder / "pytorch_model.bin.index.json");
  throw RunError(
      folder.string() + ": expected model.safetensors or model.safetensors.index.json, found " +
      (pickled ? "only pytorch_model.bin; save the model as safetensors first (transformers: "
                 "save_pretrained)"
               : "neither; is it a model folder?"));
}

}  // namespace

HfFolder::HfFolder(const fs::path& path) : path_(path) {
  if (!path_exists(path)) recover(path);
  std::error_code ignored;
  if (!fs::is_directory(path, ignored))
    throw RunError(path.string() + ": expected a model folder, found no folder there");
  if (!path_exists(path / "config.json"))
    throw RunError(path.string() +
                   ": expected config.json in it, found none; is it a model folder?");
  config_json_ = read_file(path / "config.json", uint64_t{16} << 20);

  const fs::path single = path / "model.safetensors",
                 index_path = path / "model.safetensors.index.json";
  const bool sharded = !path_exists(single);
  if (sharded && !path_exists(index_path)) no_weights(path);
  const WeightMap listed = sharded ? read_index(index_path) : WeightMap();

  std::set<std::string> names;
  for (const auto& [tensor, file] : listed) names.insert(file);
  if (!sharded) names.insert("model.safetensors");
  for (const std::string& name : names) {
    if (!path_exists(path / name))
      throw RunError(index_path.string() + ": names the shard " + name +
                     ", which is not in the folder");
    files_.push_back(std::make_unique<SafetensorsFile>(path / name));
    for (const TensorInfo& tensor : files_.back()->tensors()) {
      const auto [place, added] =
          tensors_.try_emplace(tensor.name, Place{files_.back().get(), &tensor});
      if (!added)
        throw RunError(path.string() + ": tensor `" + tensor.name + "` is in two shards, " +
                       place->second.file->path().filename().string() + " and " + name);
      const auto entry = listed.find(tensor.name);
      if (sharded && (entry == listed.end() || entry->second != name))
        throw RunError(
            index_path.string() + ": tensor `" + tensor.name + "` of " + name +
            (entry == listed.end() ? " is not listed" : " is listed as of " + entry->second));
    }
  }
  for (const auto& [tensor, file] : listed)
    if (!tensors_.contains(tensor))
      throw RunError(index_path.string() + ": lists tensor `" + tensor + "` in " + file +
                     ", which does not have it");
}

int64_t HfFolder::tensor_bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, place] : tensors_) bytes += place.tensor->bytes();
  return bytes;
}

}  // namespace conclave::checkpoint
