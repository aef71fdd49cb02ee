// A Hugging Face model folder: config.json, and model.safetensors or model.safetensors.index.json
// with its shards.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"

namespace conclave::checkpoint {

class HfFolder {
 public:
  // Opens every weight file and checks that index and shards say the same. model.safetensors is
  // taken when both it and an index are there, as transformers does. Throws RunError naming the
  // file: no config.json, no weights, a missing shard, a shard name that leaves the folder, a
  // tensor listed but absent, present but not listed, or in two shards.
  explicit HfFolder(const std::filesystem::path& path);

  struct Place {
    const SafetensorsFile* file;
    const TensorInfo* tensor;
  };

  const std::filesystem::path& path() const { return path_; }
  const std::string& config_json() const {
    return config_json_;
  }  // the text as it stands in the folder
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  const std::map<std::string, Place>& tensors() const {
    return tensors_;
  }  // by name, over all files
  int64_t tensor_bytes() const;

 private:
  std::filesystem::path path_;
  std::string config_json_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Place> tensors_;
};

}  // namespace conclave::checkpoint
