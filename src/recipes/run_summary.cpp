#include "recipes/run_summary.h"

#include <cstdio>

#include "base/files.h"
#include "base/human.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "data/bigram.h"

namespace conclave::recipes {

nlohmann::json summary_of(const PretrainConfig& c, const TrainingData& d,
                          const train::TrainState& state, const train::LoopResult& r) {
  nlohmann::json s;
  s["steps"] = state.step;
  s["finished"] = !r.stopped;
  s["skipped_steps"] = state.skipped;
  s["tokens"] = state.tokens;
  s["final_loss"] = r.last_loss;
  s["final_validation_loss"] = r.last_validation;
  s["best_validation_loss"] = state.best_validation;
  s["bits_per_byte"] = data::bits_per_byte(r.last_validation, d.validation);
  if (c.validation.bigram) {
    const double bigram =
        data::Bigram(*d.corpus.train, d.tokenizer.vocab_size()).nats_per_token(d.validation);
    s["bigram_nats_per_token"] = bigram;
    s["bigram_bits_per_byte"] = data::bits_per_byte(bigram, d.validation);
  }
  s["vocab"] = d.tokenizer.vocab_size();
  s["train_bytes"] = d.corpus.train->bytes;
  s["validation_bytes"] = d.corpus.validation->bytes;
  s["seconds"] = r.seconds;
  s["tokens_per_second"] = r.seconds > 0 ? static_cast<double>(r.tokens) / r.seconds : 0.0;
  s["peak_memory_bytes"] = peak_resident_memory();
  return s;
}

void print_summary(const PretrainConfig& c, const std::string& config_path, const nlohmann::json& s,
                   const std::string& checkpoint) {
  auto number = [&](const char* key) { return s.at(key).get<double>(); };
  std::printf("\n%s after %lld steps, %s tokens\n",
              s.at("finished").get<bool>() ? "Done" : "Stopped", s.at("steps").get<long long>(),
              human_count(number("tokens")).c_str());
  std::printf(
      "  validation loss  %.4f nats a token, %.4f bits a byte (best of the checkpoints %.4f)\n",
      number("final_validation_loss"), number("bits_per_byte"),
      s.at("best_validation_loss").is_number() ? number("best_validation_loss") : 0.0);
  if (s.contains("bigram_nats_per_token"))
    std::printf("  bigram model     %.4f nats a token, %.4f bits a byte\n",
                number("bigram_nats_per_token"), number("bigram_bits_per_byte"));
  std::printf("  speed            %s over %s\n",
              human_rate(number("tokens_per_second"), "tokens").c_str(),
              human_duration(number("seconds")).c_str());
  if (s.contains("model_tflops"))
    std::printf("  of the GPU       %.4g model TFLOP/s%s\n", number("model_tflops"),
                s.contains("mfu") ? format(", MFU %.1f %%", 100 * number("mfu")).c_str() : "");
  std::printf("  peak memory      %s", human_bytes(number("peak_memory_bytes")).c_str());
  if (s.contains("forecast_memory_bytes"))
    std::printf(", forecast %s", human_bytes(number("forecast_memory_bytes")).c_str());
  std::printf("\n");
  std::printf("  checkpoint       %s\n", checkpoint.c_str());
  if (s.at("finished").get<bool>())
    std::printf("Next: conclave generate --model %s/latest --prompt \"...\"\n", c.output.c_str());
  else
    std::printf("Go on with the same command: conclave pretrain %s\n", config_path.c_str());
}

bool is_finished(const std::string& output, int64_t step) {
  const std::string path = output + "/summary.json";
  if (!path_exists(path)) return false;
  const nlohmann::json summary = read_json(path);
  return summary.value("finished", false) && summary.value("steps", int64_t{-1}) == step;
}

}  // namespace conclave::recipes
