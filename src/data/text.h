// Documents from files: what a run reads, in an order that depends on the names alone, and which of
// it is held out.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"

namespace conclave::data {

struct TextConfig {
  std::vector<std::string> paths;  // files, or folders with all below them: .txt and .jsonl
  std::optional<std::string>
      separator;  // a .txt holds several documents with this string between them
  double validation_fraction = 0.05;        // each document is held out with this probability
  std::optional<int64_t> validation_every;  // instead: every n-th document is
  int64_t seed = 0;                         // of the choice
  void fields(auto& f) {
    f("paths", paths,
      "text files (.txt: a document, .jsonl: a document a line under `text`) and folders of them");
    f("separator", separator, "a .txt file holds several documents with this text between them");
    f("validation_fraction", validation_fraction,
      "part of the documents held out for validation, chosen by hash", in(0, 1));
    f("validation_every", validation_every, "hold out every n-th document instead of a fraction",
      at_least(2));
    f("seed", seed, "chooses the documents held out");
  }
};

class Corpus {
 public:
  // Finds the files: those named, and those below folders that end in .txt or .jsonl, sorted by
  // path (bytes), each once. Throws RunError for a path that is not there, a file of another kind,
  // and if nothing is found.
  explicit Corpus(const TextConfig& config);
  const std::vector<std::string>& files() const { return files_; }
  uint64_t bytes() const { return bytes_; }  // of all files together

  // Calls fn(index, text) for each document that is not empty, index 0, 1, … in order; `text` is
  // well-formed UTF-8 and lives for the call. Throws RunError naming file and line or offset: a
  // line that is no JSON or has no `text`, bytes that are no UTF-8; and if there is no document.
  // Shows progress under the name `what`.
  void for_each(const std::string& what,
                const std::function<void(int64_t index, std::string_view text)>& fn) const;

  bool held_out(int64_t index) const;  // document `index` is for validation
  uint64_t fingerprint()
      const;  // of names' order, contents, separator and the rule of holding out; reads all files

 private:
  TextConfig config_;
  std::vector<std::string> files_;
  uint64_t bytes_ = 0;
};

}  // namespace conclave::data
