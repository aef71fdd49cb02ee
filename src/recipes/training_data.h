// What pretraining reads: packed rows on both sides, and the order in which they come.
#pragma once
#include <cstdint>
#include <string>

#include "base/config.h"
#include "comm/world.h"
#include "data/packing.h"
#include "data/tokenized_text.h"
#include "data/tokenizer.h"
#include "recipes/pretrain_config.h"

namespace conclave::recipes {

struct TrainingData {
  data::Tokenizer tokenizer;
  data::TokenizedCorpus corpus;
  data::PackedDataset train, validation;
  data::Sampler sampler;
};

// Tokenizes the text where the cache lacks it. With a world rank 0 does and the others, which may
// wait long, find it done. Throws ConfigError where the model's vocabulary is too small.
TrainingData read_data(comm::World* world, const PretrainConfig& config, const ConfigSource& source,
                       const std::string& tokenizer_folder, int64_t vocab);

// Says whether sample ids still mean the same rows.
uint64_t fingerprint(const PretrainConfig& config, const TrainingData& data);

}  // namespace conclave::recipes
