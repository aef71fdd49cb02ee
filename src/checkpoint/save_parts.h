// What a save by one rank (save.h) and one by several (shared_save.h) do in the same way.
#pragma once
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/manifest.h"

namespace conclave::checkpoint {

inline const Metadata kModelMetadata = {{"format", "pt"}};  // transformers asks for it

using Shard = std::span<const NamedTensor>;

// Cuts `tensors`, in their order, in runs of at most max_bytes (a larger tensor stands alone).
std::vector<Shard> cut_shards(const std::vector<NamedTensor>& tensors, int64_t max_bytes);

// model-00001-of-00003.safetensors for shard 0 of 3; model.safetensors where there is one.
std::string shard_name(size_t shard, size_t shards);

// The text of model.safetensors.index.json.
std::string index_of(std::span<const Shard> shards);

inline constexpr const char* kIndexName = "model.safetensors.index.json";
inline constexpr const char* kOtherTensors =
    "this rank would save other tensors than rank 0; expected the same names, types and shapes on "
    "all";

WrittenFile write_text(const std::filesystem::path& path, std::string_view text);

// A file that is not part of the model may not take the name of one that is, nor leave the folder.
void check_free(const std::string& name, const Manifest& manifest);

// config.json and the further files.
void write_texts(const std::filesystem::path& folder, const std::string& config_json,
                 const std::map<std::string, std::string>& files, Manifest& manifest);

}  // namespace conclave::checkpoint
