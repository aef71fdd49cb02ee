#include "checkpoint/manifest.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/text.h"

namespace conclave::checkpoint {
namespace {

using nlohmann::json;

std::string checksum_damage(const std::string& path, const std::string& name,
                            const std::string& expected) {
  const MappedFile map(path);
  map.will_read_in_order();
  const std::string found = hash_hex(xxh3(map.bytes()));
  if (found == expected) return "";
  return name + ": expected checksum " + expected + ", found " + found;
}

// The same of a file in parts: [[end, checksum], …], which cover it.
std::string parts_damage(const std::string& path, const std::string& name, const json& parts) {
  const MappedFile map(path);
  map.will_read_in_order();
  size_t begin = 0;
  for (const json& part : parts) {
    const bool well_formed = part.is_array() && part.size() == 2 && part[0].is_number_unsigned() &&
                             part[1].is_string() && part[0].get<size_t>() >= begin &&
                             part[0].get<size_t>() <= map.bytes().size();
    if (!well_formed)
      return "manifest.json: " + name + ": expected parts [end, checksum], ascending, found " +
             part.dump();
    const auto end = part[0].get<size_t>();
    const std::string found = hash_hex(xxh3(map.bytes().subspan(begin, end - begin)));
    if (found != part[1].get<std::string>())
      return format("%s: bytes %zu to %zu: expected checksum %s, found %s", name.c_str(), begin,
                    end, part[1].get<std::string>().c_str(), found.c_str());
    begin = end;
  }
  return begin == map.bytes().size() ? "" : "manifest.json: " + name + ": its parts end too soon";
}

}  // namespace

void write_manifest(const std::filesystem::path& folder, const Manifest& files) {
  json list = json::object();
  for (const auto& [name, file] : files) {
    json& entry = list[name] = {{"bytes", file.bytes}};
    if (file.parts.empty()) entry["xxh3"] = hash_hex(file.xxh3);
    for (const WrittenPart& part : file.parts)
      entry["parts"].push_back({part.end, hash_hex(part.xxh3)});
  }
  OutputFile out(folder / kManifestName);
  out.write(json{{"format", 1}, {"files", list}}.dump(1) + "\n");
  out.finish();
}

std::string find_damage(const std::filesystem::path& folder, Verify how) {
  const std::string path = folder / kManifestName;
  if (!path_exists(path)) return "manifest.json: not there";
  try {
    const json manifest = read_json(path);
    if (const auto version = get<int64_t>(manifest, "format", path); version != 1)
      return format("manifest.json: expected format 1, found %lld",
                    static_cast<long long>(version));
    if (!manifest.contains("files") || !manifest["files"].is_object())
      return "manifest.json: expected an object `files`";
    for (const auto& [name, entry] : manifest["files"].items()) {
      const std::string file = folder / name;
      if (!path_exists(file)) return name + ": not there";
      const auto expected = get<int64_t>(entry, "bytes", path);
      const auto found = static_cast<int64_t>(file_size(file));
      if (expected != found)
        return format("%s: expected %lld bytes, found %lld", name.c_str(),
                      static_cast<long long>(expected), static_cast<long long>(found));
      if (how == Verify::sizes) continue;
      const auto damage = entry.contains("parts")
                              ? parts_damage(file, name, entry["parts"])
                              : checksum_damage(file, name, get<std::string>(entry, "xxh3", path));
      if (!damage.empty()) return damage;
    }
  } catch (const RunError& error) {
    return error.what();
  }
  return "";
}

}  // namespace conclave::checkpoint
