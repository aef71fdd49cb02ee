// Pre-tokenization: text is cut into words that the model then splits on its own. A chain of steps,
// each of which cuts every word of the step before it further. Further kinds of published
// tokenizers are further steps.
#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::data {

// The splits of GPT-2 and of Qwen2 (that of cl100k with single digits).
extern const char* const kGpt2Pattern;
extern const char* const kQwen2Pattern;

using Words = std::vector<std::string_view>;

class PreTokenizerStep {
 public:
  virtual ~PreTokenizerStep() = default;
  // Appends the words of `text`, in order, none empty. `text` is well-formed UTF-8. Thread-safe.
  virtual void split(std::string_view text, Words& words) const = 0;
};

// What becomes of the matches of a pattern: words of their own, or gone.
enum class SplitBehavior { isolated, removed };

// `invert`: the gaps between the matches count as matches.
std::unique_ptr<PreTokenizerStep> split_step(const std::string& pattern, SplitBehavior behavior,
                                             bool invert);

class PreTokenizer {
 public:
  void add(std::unique_ptr<PreTokenizerStep> step) { steps_.push_back(std::move(step)); }
  // The words of `text`, in order; they point into it.
  void split(std::string_view text, Words& words) const;

 private:
  std::vector<std::unique_ptr<PreTokenizerStep>> steps_;
};

// `value` is the pre_tokenizer of the tokenizer.json that messages call `file`: ByteLevel or Split,
// or a Sequence of these. Its last step is a ByteLevel, since the model works on bytes. Throws
// RunError naming file and key for anything else.
PreTokenizer read_pre_tokenizer(const nlohmann::json& value, const std::string& file);

}  // namespace conclave::data
