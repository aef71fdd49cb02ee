// manifest.json of a saved folder: {"format": 1, "files": {"NAME": {"bytes": N, "xxh3": "16 hex
// digits"}, …}}; of a file that several ranks wrote "parts": [[END, "16 hex digits"], …] instead of
// "xxh3", a part from the end of the one before to the byte END. Written last, so a folder that has
// one was written to its end.
#pragma once
#include <filesystem>
#include <map>
#include <string>

#include "checkpoint/safetensors.h"

namespace conclave::checkpoint {

constexpr const char* kManifestName = "manifest.json";

using Manifest = std::map<std::string, WrittenFile>;

void write_manifest(const std::filesystem::path& folder, const Manifest& files);

enum class Verify { sizes, checksums };

// Empty when every file of the manifest is there with its size (and, on demand, its checksum; that
// reads all bytes); else one phrase that says what is wrong first: "model.safetensors: expected
// 1024 bytes, found 1000".
std::string find_damage(const std::filesystem::path& folder, Verify how);

}  // namespace conclave::checkpoint
