// `conclave tokenize` and `conclave train-tokenizer`.
#pragma once
#include <string>
#include <vector>

namespace conclave::recipes {

// Lines of JSON from `in` to `out`, each {"text"} to {"ids"} or back, by a tokenizer.json (or the
// folder that holds it).
void tokenize(const std::string& tokenizer, const std::string& in, const std::string& out);

// Trains a byte-level BPE tokenizer on text and saves tokenizer.json and tokenizer_config.json.
// Returns the exit status.
int train_tokenizer(const std::string& config_path, const std::vector<std::string>& sets,
                    bool dry_run);

}  // namespace conclave::recipes
