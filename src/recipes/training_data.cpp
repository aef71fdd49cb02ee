#include "recipes/training_data.h"

#include <optional>

#include "base/hash.h"
#include "base/human.h"
#include "base/log.h"
#include "base/text.h"

namespace conclave::recipes {
namespace {

TrainingData read_here(const PretrainConfig& c, const ConfigSource& source,
                       const std::string& tokenizer_folder, int64_t vocab) {
  auto tokenizer = data::Tokenizer::load(tokenizer_folder + "/tokenizer.json");
  if (tokenizer.vocab_size() > vocab)
    throw source.error(
        "model",
        format("vocab_size is %lld, the tokenizer has %lld tokens; expected at least as many",
               static_cast<long long>(vocab), static_cast<long long>(tokenizer.vocab_size())));
  auto corpus = data::tokenize_corpus(c.data.text, tokenizer, c.data.eos, c.data.cache);
  const auto documents =
      c.data.documents == "joined" ? data::Documents::joined : data::Documents::separate;
  data::PackedDataset train(corpus.train, c.data.seq_len, static_cast<uint64_t>(c.seed), documents);
  data::PackedDataset validation(corpus.validation, c.data.seq_len, std::nullopt, documents);
  log_info(format(
      "training on %s tokens (%s, %lld documents), validating on %s tokens (%s, %lld documents)",
      human_count(static_cast<double>(corpus.train->tokens())).c_str(),
      human_bytes(static_cast<double>(corpus.train->bytes)).c_str(),
      static_cast<long long>(corpus.train->docs()),
      human_count(static_cast<double>(corpus.validation->tokens())).c_str(),
      human_bytes(static_cast<double>(corpus.validation->bytes)).c_str(),
      static_cast<long long>(corpus.validation->docs())));
  data::Sampler sampler(train.rows(), static_cast<uint64_t>(c.seed));
  return {std::move(tokenizer), std::move(corpus), std::move(train), std::move(validation),
          std::move(sampler)};
}

}  // namespace

TrainingData read_data(comm::World* world, const PretrainConfig& c, const ConfigSource& source,
                       const std::string& tokenizer_folder, int64_t vocab) {
  if (!world) return read_here(c, source, tokenizer_folder, vocab);
  std::optional<TrainingData> mine;
  world->of_rank_zero("tokenized text", [&] {
    mine.emplace(read_here(c, source, tokenizer_folder, vocab));
    return std::string("there");
  });
  if (!mine) mine.emplace(read_here(c, source, tokenizer_folder, vocab));
  return std::move(*mine);
}

uint64_t fingerprint(const PretrainConfig& c, const TrainingData& d) {
  const auto& ids = d.corpus.train->ids;
  const std::string key =
      format("%lld %lld %016llx", static_cast<long long>(c.data.seq_len),
             static_cast<long long>(c.seed),
             static_cast<unsigned long long>(xxh3(std::as_bytes(std::span(ids))))) +
      (c.data.documents == "joined" ? " joined" : "");
  return xxh3(std::as_bytes(std::span(key)));
}

}  // namespace conclave::recipes
