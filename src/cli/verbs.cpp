#include "cli/verbs.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/config.h"
#include "base/text.h"
#include "cli/config_page.h"
#include "cli/launch.h"
#include "recipes/benchmark.h"
#include "recipes/forward.h"
#include "recipes/generate.h"
#include "recipes/merge.h"
#include "recipes/pretrain.h"
#include "recipes/tokenize.h"

namespace conclave::cli {
namespace {

struct ConfigVerb {
  std::string config;
  std::vector<std::string> sets;
  bool dry_run = false;
};

// CONFIG.yaml, --set and --dry-run, as all verbs with a config take them.
CLI::App* add_config_verb(CLI::App& app, const char* name, const char* help,
                          std::shared_ptr<ConfigVerb> v, bool needs_config) {
  CLI::App* verb = app.add_subcommand(name, help);
  auto* config = verb->add_option("config", v->config, "YAML file");
  if (needs_config) config->required();
  verb->add_option("--set", v->sets, "a.b=c: replaces one setting")
      ->take_all()
      ->expected(1)
      ->allow_extra_args(false);
  verb->add_flag("--dry-run", v->dry_run, "say what would be done, and do nothing");
  return verb;
}

// A variable that is empty is not an option left out.
std::string is_name(const std::string& path) { return path.empty() ? "expected a name" : ""; }

void add_pretrain(CLI::App& app, int& status) {
  auto v = std::make_shared<ConfigVerb>();
  auto svg = std::make_shared<std::string>();
  CLI::App* verb = add_config_verb(app, "pretrain", "train a model on text", v, true);
  verb->add_option("--svg", *svg,
                   "with --dry-run: a picture of which rank holds what and who talks to whom")
      ->check(is_name);
  verb->callback(
      [v, svg, &status] { status = recipes::pretrain(v->config, v->sets, v->dry_run, *svg); });
}

void add_benchmark(CLI::App& app, int& status) {
  auto v = std::make_shared<ConfigVerb>();
  auto profile = std::make_shared<std::string>();
  CLI::App* verb = add_config_verb(
      app, "benchmark", "time training steps of one rank of a published layout", v, true);
  verb->add_option("--profile", *profile, "the same as --set profile=FILE");
  verb->callback([v, profile, &status] {
    if (!profile->empty()) v->sets.push_back("profile=" + nlohmann::json(*profile).dump());
    status = recipes::benchmark(v->config, v->sets, v->dry_run);
  });
}

void add_generate(CLI::App& app, int& status) {
  auto v = std::make_shared<ConfigVerb>();
  CLI::App* verb = add_config_verb(app, "generate", "write text with a model", v, false);
  auto flags = std::make_shared<std::map<std::string, std::string>>();
  for (const ConfigKey& key : config_keys<recipes::GenerateConfig>()) {
    std::string flag = "--" + key.path;
    std::replace(flag.begin(), flag.end(), '_', '-');
    verb->add_option(flag, (*flags)[key.path], key.help);
  }
  verb->callback([v, flags, verb, &status] {
    // A flag is a --set; texts are quoted, so that a prompt may look like anything.
    for (const auto& [key, value] : *flags) {
      std::string flag = "--" + key;
      std::replace(flag.begin(), flag.end(), '_', '-');
      if (verb->count(flag) == 0) continue;
      const bool text = key == "prompt" || key == "model";
      v->sets.push_back(key + "=" +
                        (text ? nlohmann::json(value).dump(-1, ' ', false,
                                                           nlohmann::json::error_handler_t::replace)
                              : value));
    }
    status = recipes::generate(v->config, v->sets, v->dry_run);
  });
}

std::string at_least_one(const std::string& text) {
  const bool whole = !text.empty() && text.size() < 10 &&
                     text.find_first_not_of("0123456789") == std::string::npos;
  return whole && std::stoll(text) > 0
             ? ""
             : "expected a whole number of at least 1, got `" + text + "`";
}

void add_forward(CLI::App& app) {
  auto o = std::make_shared<recipes::ForwardOptions>();
  CLI::App* verb = app.add_subcommand(
      "forward",
      "logits, loss, experts and gradients of a model on given ids, to compare with a reference");
  verb->add_option("--model", o->model, "model folder")->required();
  verb->add_option("--ids", o->ids, "safetensors with input_ids and maybe labels, I64 [batch, seq]")
      ->required();
  verb->add_option("--out", o->out, "safetensors to write")->required();
  verb->add_flag("--grads", o->grads, "also the gradient of each parameter");
  verb->add_option(
          "--mtp-weight", o->mtp_weight,
          "with --grads: also differentiates the loss of multi-token prediction, times this")
      ->check(CLI::PositiveNumber);
  verb->add_option("--steps", o->steps,
                   "this many AdamW steps on ids [steps, batch, seq]; writes losses only")
      ->check(at_least_one);
  verb->add_flag("--timings", o->timings, "with --steps: also the seconds of each");
  verb->add_option("--dtype", o->dtype, "fp32, fp64 or bf16")->capture_default_str();
  verb->add_option("--device", o->device, "cpu, cuda or auto")->capture_default_str();
  verb->callback([o] { recipes::forward(*o); });
}

void add_train_tokenizer(CLI::App& app, int& status) {
  auto v = std::make_shared<ConfigVerb>();
  CLI::App* verb =
      add_config_verb(app, "train-tokenizer", "make a byte-level BPE tokenizer from text", v, true);
  verb->callback(
      [v, &status] { status = recipes::train_tokenizer(v->config, v->sets, v->dry_run); });
}

void add_tokenize(CLI::App& app) {
  struct Options {
    std::string tokenizer, in, out;
  };
  auto o = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("tokenize", R"(lines {"text"} to {"ids"} and back)");
  verb->add_option("--tokenizer", o->tokenizer, "tokenizer.json")->required();
  verb->add_option("--in", o->in, "JSON lines")->required();
  verb->add_option("--out", o->out, "JSON lines")->required();
  verb->callback([o] { recipes::tokenize(o->tokenizer, o->in, o->out); });
}

void add_merge(CLI::App& app) {
  struct Options {
    std::string folder, output;
  };
  auto o = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand(
      "merge", "a checkpoint in one file a rank (checkpoint.layout: per_rank) to a model folder");
  verb->add_option("folder", o->folder, "the checkpoint, e.g. runs/a/latest")->required();
  verb->add_option("--output", o->output, "folder to write; the checkpoint itself if not given")
      ->check(is_name);
  verb->callback([o] { recipes::merge(o->folder, o->output); });
}

void add_launch(CLI::App& app, int& status) {
  auto o = std::make_shared<LaunchOptions>();
  CLI::App* verb = app.add_subcommand(
      "launch", "start ranks on this machine: conclave launch -n N VERB [CONFIG.yaml] ...");
  verb->add_option("-n,--ranks", o->ranks, "how many ranks")
      ->required()
      ->check(CLI::Range(1, 4096));
  verb->add_option("--logs", o->logs,
                   "folder for the ranks' output; .cache/launch/TIME if not given");
  verb->add_option("--timeout", o->timeout,
                   "seconds that a rank waits for the others in one call (CONCLAVE_TIMEOUT)")
      ->check(CLI::PositiveNumber);
  verb->add_option("--binary", o->binary, "the program to start, instead of this one");
  verb->prefix_command();
  verb->callback([o, verb, &status] {
    o->arguments = verb->remaining();
    status = launch(*o);
  });
}

void add_help(CLI::App& app) {
  auto topic = std::make_shared<std::string>();
  auto page = std::make_shared<bool>(false);
  CLI::App* verb =
      app.add_subcommand("help", "this overview, or the flags and config keys of a verb");
  verb->add_option("verb", *topic);
  verb->add_flag("--config", *page, "the config keys of all verbs, as docs/config.md");
  verb->callback([topic, page, &app] {
    if (*page) {
      std::fputs(config_page().c_str(), stdout);
      return;
    }
    if (topic->empty()) {
      std::puts(overview().c_str());
      return;
    }
    check_verb(app, *topic);
    std::fputs(app.get_subcommand(*topic)->help().c_str(), stdout);
    if (const std::string keys = config_lines(*topic); !keys.empty())
      std::printf("\nKeys of the config:\n%s", keys.c_str());
  });
}

}  // namespace

std::string overview() {
  return R"(conclave VERB [CONFIG.yaml] [--set a.b=c ...] [--dry-run]

  pretrain         train a model on text, from nothing or from a folder's weights; resumes by itself
  generate         write text with a model
  benchmark        time training steps of one rank of a published layout
  forward          logits, loss, experts and gradients on given ids, to compare with a reference
  train-tokenizer  make a byte-level BPE tokenizer from text
  tokenize         text to token ids and back, line by line
  merge            one file a rank to a model folder
  launch           start several ranks of a verb on this machine: launch -n 8 pretrain CONFIG.yaml
  help             this page; `conclave help VERB` lists flags and config keys

Exit status: 0 the end was reached, 75 stopped by a signal after saving, 2 usage or config, 1 run time.)";
}

void check_verb(const CLI::App& app, const std::string& name) {
  std::vector<std::string> names;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(verb->get_name());
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  const std::string near = nearest(name, names);
  throw ConfigError("there is no verb `" + name + "`; " +
                    (near.empty() ? "conclave help lists them"
                                  : "did you mean `" + near + "`? (conclave help lists all)"));
}

void add_verbs(CLI::App& app, int& status) {
  add_pretrain(app, status);
  add_generate(app, status);
  add_forward(app);
  add_train_tokenizer(app, status);
  add_tokenize(app);
  add_benchmark(app, status);
  add_merge(app);
  add_launch(app, status);
  add_help(app);
}

}  // namespace conclave::cli
