// The page "one token through the house" (docs/one_token.md): which file does what to a token, with
// the shapes of a run. --dry-run prints it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "plan/shape.h"

namespace conclave::plan {

struct TokenRun {
  std::string config;                // e.g. configs/pretrain/demo.yaml
  std::string model_file;            // e.g. src/models/qwen3_moe.cpp
  int64_t rows = 0, row_length = 0;  // of a micro-batch
  int64_t micro_batches = 0;         // a step
  int64_t max_logits = int64_t{1} << 22;
};

struct Station {
  std::string file;   // from the root of the sources
  std::string what;   // done there
  std::string shape;  // of what leaves it, e.g. "x [tokens, hidden] = [1024, 128]"; may be empty
};

struct Passage {  // stations under one heading
  std::string title;
  std::vector<Station> stations;
};

std::vector<Passage> one_token(const ModelShape& model, const TokenRun& run);

// Every file named, each once, ascending.
std::vector<std::string> files(const std::vector<Passage>& passages);

// As text: a heading and a line a station, `file: what [shape]`.
std::string one_token_page(const ModelShape& model, const TokenRun& run);

}  // namespace conclave::plan
