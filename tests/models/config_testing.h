// What the tests of architectures share: the checkpoint's names and shapes, and what is refused.
#pragma once
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "models/registry.h"

namespace conclave::models::testing {

using Shape = std::vector<int64_t>;

inline std::map<std::string, Shape> pieces(const nn::Decoder& d) {
  std::map<std::string, Shape> out;
  for (const auto& unit : d.units)
    for (const auto& piece : unit->layout().pieces) {
      EXPECT_TRUE(out.emplace(piece.name, piece.shape).second) << piece.name << " twice";
    }
  return out;
}

// A ConfigError that says all of `parts`.
inline void expect_refused(const nlohmann::json& c, const std::vector<std::string>& parts,
                           const DecoderOptions& options = {}) {
  try {
    make_decoder(c, "some/config.json", options);
    ADD_FAILURE() << "expected a ConfigError with: " << parts.front();
  } catch (const ConfigError& e) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

inline nlohmann::json changed(nlohmann::json config, const std::string& key, nlohmann::json value) {
  config[key] = std::move(value);
  return config;
}

}  // namespace conclave::models::testing
