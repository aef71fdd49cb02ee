#include "recipes/generate.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "base/human.h"
#include "base/log.h"
#include "base/random.h"
#include "base/stop.h"
#include "base/timer.h"
#include "data/tokenizer.h"
#include "parallel/micro_batch.h"
#include "recipes/device.h"
#include "recipes/model_io.h"
#include "recipes/threads.h"

namespace conclave::recipes {
namespace {

// The decoder with the cache of one document.
class Reader {
 public:
  explicit Reader(Model& model) : model_(model), cache_(model.decoder->layers.size()) {}

  // Reads tokens and returns the logits after the last one, fp64.
  std::vector<double> read(const std::vector<int64_t>& ids) {
    const auto n = static_cast<int64_t>(ids.size());
    parallel::Batch b;
    b.ids = at::tensor(ids, at::TensorOptions().dtype(at::kLong));
    b.rows.positions = at::arange(seen_, seen_ + n, at::kLong);
    b.rows.doc_offsets = b.rows.row_offsets = {0, n};
    b.rows.cache = &cache_;
    parallel::MicroBatch micro(*model_.decoder, *model_.units, *model_.dispatcher,
                               parallel::to_device(std::move(b), model_.units->device()),
                               {.training = false});
    micro.forward();
    seen_ += n;
    const at::Tensor logits =
        micro.logits(at::full({1}, n - 1, at::kLong)).to(at::kDouble).cpu().contiguous();
    const double* p = logits.const_data_ptr<double>();
    return {p, p + logits.numel()};
  }
  int64_t seen() const { return seen_; }

 private:
  Model& model_;
  nn::KvCache cache_;
  int64_t seen_ = 0;
};

// Draws from the likeliest tokens that together hold top_p; u in [0, 1).
int64_t draw(const std::vector<double>& logits, double temperature, double top_p, double u) {
  if (temperature == 0) return std::max_element(logits.begin(), logits.end()) - logits.begin();
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const double top = logits[static_cast<size_t>(order[0])];
  std::vector<double> p;
  double sum = 0;
  for (int64_t id : order)
    sum += p.emplace_back(std::exp((logits[static_cast<size_t>(id)] - top) / temperature));
  double kept = 0;
  size_t count = 0;
  while (count < p.size() && (count == 0 || kept < top_p * sum)) kept += p[count++];
  double target = u * kept;
  for (size_t i = 0; i + 1 < count; ++i)
    if ((target -= p[i]) < 0) return order[i];
  return order[count - 1];
}

// Prints decoded text as far as it is whole characters.
class Printer {
 public:
  explicit Printer(const data::Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  void add(int64_t id, bool flush = false) {
    if (id >= 0) ids_.push_back(id);
    const std::string text = tokenizer_.decode(ids_);
    const bool cut = text.ends_with("\uFFFD") && !flush;
    if (cut || text.size() <= printed_) return;
    std::fwrite(text.data() + printed_, 1, text.size() - printed_, stdout);
    std::fflush(stdout);
    printed_ = text.size();
    if (ids_.size() > 64) ids_.clear(), printed_ = 0;
  }

 private:
  const data::Tokenizer& tokenizer_;
  std::vector<int64_t> ids_;
  size_t printed_ = 0;
};

// The ids that end a text: eos_token_id of config.json, one or a list.
std::vector<int64_t> end_ids(const nlohmann::json& config) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null()) return {};
  return found->is_array() ? found->get<std::vector<int64_t>>()
                           : std::vector<int64_t>{found->get<int64_t>()};
}

int64_t one_text(const GenerateConfig& c, Model& model, const data::Tokenizer& tokenizer,
                 int64_t sample) {
  const auto ends = end_ids(model.config);
  auto prompt = tokenizer.encode(c.prompt);
  std::vector<int64_t> ids(prompt.begin(), prompt.end());
  // A document starts after the end of another, as in the packed rows of training.
  if (ids.empty()) ids.push_back(ends.empty() ? 0 : ends.front());
  Reader reader(model);
  Printer printer(tokenizer);
  std::fputs(c.prompt.c_str(), stdout);
  int64_t made = 0;
  auto logits = reader.read(ids);
  while (made < c.max_tokens && !stop_requested()) {
    const int64_t id = draw(logits, c.temperature, c.top_p,
                            uniform(static_cast<uint64_t>(c.seed),
                                    hash_name("generate") + static_cast<uint64_t>(sample),
                                    static_cast<uint64_t>(made)));
    ++made;
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) break;
    printer.add(id);
    if (reader.seen() == model.decoder->max_positions) break;
    if (made < c.max_tokens) logits = reader.read({id});
  }
  printer.add(-1, /*flush=*/true);
  std::fputs("\n", stdout);
  return made;
}

}  // namespace

int generate(const std::string& config_path, const std::vector<std::string>& sets, bool dry_run) {
  const auto config = read_config<GenerateConfig>(config_path, sets, "generate");
  const GenerateConfig& c = config.value;
  config.source.require("model");
  for (const char* key : {"top_p", "seed"})
    if (c.temperature == 0 && config.source.is_set(key))
      throw config.source.error(key, "has no effect with temperature 0; leave one out");
  if (dry_run) {
    std::fputs(dump_config(c).c_str(), stdout);
    return 0;
  }
  use_threads(c.threads);
  const at::ScalarType dtype = parse_dtype(c.dtype, "dtype");
  const at::Device device = choose_device(c.device, config.source.location("device"), dtype);
  Model model = load_model(c.model, {.dtype = dtype, .device = device});
  const auto tokenizer = data::Tokenizer::load(c.model + "/tokenizer.json");
  if (tokenizer.vocab_size() > model.decoder->vocab)
    throw ConfigError(c.model + ": the tokenizer has " + std::to_string(tokenizer.vocab_size()) +
                      " tokens, the model only " + std::to_string(model.decoder->vocab));
  install_stop_handlers();
  Timer timer;
  int64_t made = 0;
  for (int64_t i = 0; i < c.samples && !stop_requested(); ++i) {
    if (i > 0) std::fputs("\n", stdout);
    made += one_text(c, model, tokenizer, i);
  }
  log_info(std::to_string(made) + " tokens, " +
           human_rate(static_cast<double>(made) / timer.seconds(), "tokens"));
  return 0;
}

}  // namespace conclave::recipes
