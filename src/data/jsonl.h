// Tokenizing a file of JSON lines.
#pragma once
#include <string>

#include "data/tokenizer.h"

namespace conclave::data {

// A line {"text": …} gives {"ids": […]} (special tokens in the text are recognised, none is added),
// a line {"ids": […]} gives
// {"text": …} (special tokens kept). Throws RunError naming file and line for a line that is
// neither; `out` is then as it was before. Returns the number of lines.
int64_t tokenize_jsonl(const Tokenizer& tokenizer, const std::string& in, const std::string& out);

}  // namespace conclave::data
