#include "checkpoint/save.h"

#include <c10/util/Exception.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/fault.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/text.h"
#include "checkpoint/save_parts.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

void write_model(const fs::path& folder, const FolderContents& contents, Manifest& manifest) {
  const std::vector<Shard> shards = cut_shards(contents.tensors, contents.max_shard_bytes);
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shard_name(i, shards.size());
    manifest[name] = write_safetensors(folder / name, shards[i], kModelMetadata);
  }
  if (shards.size() == 1) return;
  manifest[kIndexName] = write_text(folder / kIndexName, index_of(shards));
}

}  // namespace

std::vector<Shard> cut_shards(const std::vector<NamedTensor>& tensors, int64_t max_bytes) {
  TORCH_CHECK(max_bytes > 0, "save: expected max_shard_bytes > 0, got ", max_bytes);
  std::vector<Shard> shards;
  size_t begin = 0;
  int64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto more = static_cast<int64_t>(tensors[i].data.nbytes());
    if (i > begin && bytes + more > max_bytes) {
      shards.push_back(Shard(tensors).subspan(begin, i - begin));
      begin = i, bytes = 0;
    }
    bytes += more;
  }
  shards.push_back(Shard(tensors).subspan(begin));
  return shards;
}

std::string shard_name(size_t shard, size_t shards) {
  return shards == 1 ? "model.safetensors"
                     : format("model-%05zu-of-%05zu.safetensors", shard + 1, shards);
}

std::string index_of(std::span<const Shard> shards) {
  nlohmann::json places = nlohmann::json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i)
    for (const NamedTensor& tensor : shards[i]) {
      TORCH_CHECK(!places.contains(tensor.name), "save: two tensors `", tensor.name, "`");
      places[tensor.name] = shard_name(i, shards.size());
      total += static_cast<int64_t>(tensor.data.nbytes());
    }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", places}};
  return index.dump(2) + "\n";
}

WrittenFile write_text(const fs::path& path, std::string_view text) {
  OutputFile out(path);
  out.write(text);
  const WrittenFile written{static_cast<int64_t>(text.size()),
                            xxh3(std::as_bytes(std::span(text)))};
  fault_point("save/after_write");
  out.finish();
  fault_point("save/after_fsync");
  return written;
}

void check_free(const std::string& name, const Manifest& manifest) {
  const bool plain = !name.empty() && name[0] != '.' && name.find('/') == std::string::npos;
  TORCH_CHECK(plain && name != kManifestName && !manifest.contains(name),
              "save: expected a plain file name of its own, got `", name, "`");
}

void write_texts(const fs::path& folder, const std::string& config_json,
                 const std::map<std::string, std::string>& files, Manifest& manifest) {
  const auto text = [&](const std::string& name, const std::string& content) {
    check_free(name, manifest);
    manifest[name] = write_text(folder / name, content);
  };
  text("config.json", config_json);
  for (const auto& [name, content] : files) text(name, content);
}

std::map<std::string, std::string> read_companion_files(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const char* name :
       {"generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
        "tokenizer.model", "tiktoken.model", "chat_template.jinja"})
    if (path_exists(folder / name)) files[name] = read_file(folder / name);
  std::error_code none;  // no such folder: no files
  for (const auto& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".py" && entry.path().filename().string()[0] != '.')
      files[entry.path().filename()] = read_file(entry.path());
  return files;
}

void save_folder(const fs::path& target, const FolderContents& contents) {
  StagedFolder staged(target);
  Manifest manifest;
  write_model(staged.path(), contents, manifest);
  write_texts(staged.path(), contents.config_json, contents.files, manifest);
  for (const auto& [name, tensors] : contents.beside) {
    check_free(name, manifest);
    manifest[name] = write_safetensors(staged.path() / name, tensors);
  }
  write_manifest(staged.path(), manifest);
  fault_point("save/after_manifest");
  staged.commit();
}

}  // namespace conclave::checkpoint
