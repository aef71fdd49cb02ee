// Reading the keys of a config.json: typed, with messages that name the file and the key, and with
// the names of transformers 5 and of published checkpoints side by side.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"

namespace conclave::models {

class Keys {
 public:
  // `from` names the file in messages. `places`: where each top-level key stands, for a config that
  // is written inline in a YAML file; empty for a config.json.
  Keys(const nlohmann::json& config, std::string from,
       std::map<std::string, std::string> places = {})
      : config_(config), from_(std::move(from)), places_(std::move(places)) {}

  // The first of `names` that is there and not null; `{"rope_parameters", "rope_theta"}` style
  // paths are written "a.b".
  const nlohmann::json* find(const std::vector<std::string>& names) const;
  // Under which of these names it is there; the first where it is not.
  std::string given(const std::vector<std::string>& names) const;

  int64_t count(const std::vector<std::string>& names) const;  // an integer ≥ 1; required
  // An integer ≥ `least`, or `otherwise` where it is absent.
  int64_t count(const std::vector<std::string>& names, int64_t otherwise, int64_t least = 1) const;
  bool is_null(const std::string& name) const;  // it is there, without a value
  double number(const std::vector<std::string>& names, double otherwise) const;
  bool flag(const std::string& name, bool otherwise) const;
  std::string text(const std::vector<std::string>& names, const std::string& otherwise) const;
  std::vector<int64_t> indices(const std::string& name) const;  // integers ≥ 0; empty where absent
  std::vector<std::string> texts(const std::string& name) const;  // likewise

  // For an inline config: every key must be one that was asked for above or stands in
  // `without_effect_here` (what transformers writes and training does not need). Names the nearest
  // known key. A config.json may hold anything.
  void refuse_unknown(const std::set<std::string>& without_effect_here) const;

  // Refuses other values of these keys than the ones given, which go without saying.
  void expect(const std::map<std::string, nlohmann::json>& values) const;

  // For a value that is well-formed and cannot be used: "config.json: `key`: what".
  [[noreturn]] void refuse(const std::string& key, const std::string& what) const;

 private:
  const nlohmann::json& config_;
  std::string from_;
  std::map<std::string, std::string> places_;
  mutable std::set<std::string> asked_;  // top-level names
};

}  // namespace conclave::models
