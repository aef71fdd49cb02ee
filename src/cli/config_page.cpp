#include "cli/config_page.h"

#include <vector>

#include "base/config.h"
#include "recipes/benchmark_config.h"
#include "recipes/generate.h"
#include "recipes/pretrain_config.h"
#include "recipes/train_tokenizer_config.h"

namespace conclave::cli {
namespace {

struct VerbConfig {
  std::string verb;
  std::vector<ConfigKey> (*keys)();
  std::string (*lines)();
};

template <class C>
VerbConfig of(const char* verb) {
  return {verb, config_keys<C>, list_keys<C>};
}

const std::vector<VerbConfig>& configs() {
  static const std::vector<VerbConfig> all{of<recipes::PretrainConfig>("pretrain"),
                                           of<recipes::BenchmarkConfig>("benchmark"),
                                           of<recipes::GenerateConfig>("generate"),
                                           of<recipes::TrainTokenizerConfig>("train-tokenizer")};
  return all;
}

// A cell of a table: a bar would end it.
std::string cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2)
    text.replace(at, 1, "\\|");
  return text;
}

std::string table(const std::vector<ConfigKey>& keys) {
  std::string text = "| key | type | default | meaning |\n|---|---|---|---|\n";
  for (const ConfigKey& key : keys) {
    const bool section = key.type.empty();
    text += "| " + (section ? "**" + key.path + "**" : "`" + key.path + "`") + " | " +
            cell(key.type) + " | " + (key.value.empty() ? "" : "`" + cell(key.value) + "`") +
            " | " + cell(key.help) + (key.range.empty() ? "" : " (" + cell(key.range) + ")") +
            " |\n";
  }
  return text;
}

}  // namespace

std::string config_page() {
  std::string page =
      "# Keys of the configs\n\n"
      "`conclave help --config` prints this page; a test holds the two together. On the command\n"
      "line `--set a.b=c` replaces one key.\n";
  for (const VerbConfig& c : configs())
    page += "\n## conclave " + c.verb + "\n\n" + table(c.keys());
  return page;
}

std::string config_lines(const std::string& verb) {
  for (const VerbConfig& c : configs())
    if (c.verb == verb) return c.lines();
  return "";
}

}  // namespace conclave::cli
