// JSON from files that may be damaged or hostile. Numbers, depth and size are bounded, a name twice
// in one object is an error, and each message is a RunError that names the file. Include
// <nlohmann/json.hpp> where the values are used.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace conclave {

struct JsonLimits {
  uint64_t bytes = uint64_t{256} << 20;
  int64_t depth = 256;
};

// `file` is what messages call it. Throws RunError "FILE:line:column: …" for what is not JSON.
nlohmann::json parse_json(std::string_view text, const std::string& file, JsonLimits limits = {});
nlohmann::json read_json(const std::string& path, JsonLimits limits = {});

// object[key] as T, exactly: a 1.5 is no integer, a 1 is a number, nothing is converted from text.
// T is bool, int64_t, double, std::string or a std::vector of int64_t, double or std::string.
// Throws RunError "FILE: `key`: expected a whole number, got "x"" for a missing key or another
// type.
template <class T>
T get(const nlohmann::json& object, const std::string& key, const std::string& file);

// As get(), but `otherwise` where the key is missing or null.
template <class T>
T get_or(const nlohmann::json& object, const std::string& key, const std::string& file,
         T otherwise);

}  // namespace conclave
