#include "data/pre_tokenizer.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "base/error.h"
#include "base/json.h"
#include "data/regex.h"

namespace conclave::data {

const char* const kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

namespace {

using Json = nlohmann::json;

class SplitStep : public PreTokenizerStep {
 public:
  SplitStep(const std::string& pattern, SplitBehavior behavior, bool invert)
      : regex_(pattern),
        keep_matches_(behavior == SplitBehavior::isolated || invert),
        keep_gaps_(behavior == SplitBehavior::isolated || !invert) {}

  void split(std::string_view text, Words& words) const override {
    Regex::Matches matches(regex_, text);
    size_t done = 0;
    while (matches.next()) {
      if (keep_gaps_ && matches.begin() > done)
        words.push_back(text.substr(done, matches.begin() - done));
      done = matches.end();
      if (keep_matches_) words.push_back(text.substr(matches.begin(), done - matches.begin()));
    }
    if (keep_gaps_ && done < text.size()) words.push_back(text.substr(done));
  }

 private:
  Regex regex_;
  bool keep_matches_, keep_gaps_;
};

[[noreturn]] void refuse(const std::string& file, const std::string& key,
                         const std::string& expected, const Json& got) {
  std::string text = got.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "…";
  throw RunError(file + ": `" + key + "`: expected " + expected + ", got " + text);
}

std::unique_ptr<PreTokenizerStep> read_split(const Json& value, const std::string& at,
                                             const std::string& file) {
  const Json pattern = value.value("pattern", Json());
  if (!pattern.is_object() || !pattern.contains("Regex") || !pattern["Regex"].is_string())
    refuse(file, at + ".pattern", "{\"Regex\": \"…\"}", pattern);
  auto behavior = get<std::string>(value, "behavior", file);
  if (behavior != "Isolated" && behavior != "Removed")
    refuse(file, at + ".behavior", "\"Isolated\" or \"Removed\"", behavior);
  try {
    return split_step(pattern["Regex"].get<std::string>(),
                      behavior == "Isolated" ? SplitBehavior::isolated : SplitBehavior::removed,
                      get<bool>(value, "invert", file));
  } catch (const std::invalid_argument& error) {
    refuse(file, at + ".pattern", std::string("a pattern that is taken (") + error.what() + ")",
           pattern);
  }
}

// One step; `bytes` tells whether a ByteLevel came, after which the text is no more the text.
void read_step(const Json& value, const std::string& at, const std::string& file,
               PreTokenizer& chain, bool& bytes) {
  if (!value.is_object()) refuse(file, at, "an object", value);
  if (bytes) refuse(file, at, "ByteLevel to be the last step", value);
  auto type = get<std::string>(value, "type", file);
  if (type == "Sequence") {
    const Json steps = value.value("pretokenizers", Json());
    if (!steps.is_array()) refuse(file, at + ".pretokenizers", "a list", steps);
    for (size_t i = 0; i < steps.size(); ++i)
      read_step(steps[i], at + ".pretokenizers[" + std::to_string(i) + "]", file, chain, bytes);
  } else if (type == "Split") {
    chain.add(read_split(value, at, file));
  } else if (type == "ByteLevel") {
    if (get<bool>(value, "add_prefix_space", file))
      refuse(file, at + ".add_prefix_space", "false", true);
    if (get_or<bool>(value, "use_regex", file, true))
      chain.add(split_step(kGpt2Pattern, SplitBehavior::isolated, false));
    bytes = true;
  } else {
    refuse(file, at + ".type", "ByteLevel, Split or Sequence", type);
  }
}

}  // namespace

std::unique_ptr<PreTokenizerStep> split_step(const std::string& pattern, SplitBehavior behavior,
                                             bool invert) {
  return std::make_unique<SplitStep>(pattern, behavior, invert);
}

void PreTokenizer::split(std::string_view text, Words& words) const {
  words.clear();
  if (text.empty()) return;
  words.push_back(text);
  Words before;
  for (const auto& step : steps_) {
    before.swap(words);
    words.clear();
    for (std::string_view word : before) step->split(word, words);
  }
}

PreTokenizer read_pre_tokenizer(const Json& value, const std::string& file) {
  PreTokenizer chain;
  bool bytes = false;
  read_step(value, "pre_tokenizer", file, chain, bytes);
  if (!bytes) refuse(file, "pre_tokenizer", "a ByteLevel as its last step", value);
  return chain;
}

}  // namespace conclave::data
