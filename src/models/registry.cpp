#include "models/registry.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/keys.h"

namespace conclave::models {
namespace {

using MakeDecoder = nn::Decoder (*)(const Keys&, const DecoderOptions&);

const std::map<std::string, MakeDecoder> kRegistry = {
    {"DeepseekV3ForCausalLM", make_deepseek_v3},
    {"GptOssForCausalLM", make_gpt_oss},
    {"OlmoeForCausalLM", make_olmoe},
    {"Qwen3MoeForCausalLM", make_qwen3_moe},
};

std::string known() {
  std::string names;
  for (const auto& name : architectures()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const auto& [name, make] : kRegistry) names.push_back(name);
  return names;
}

nn::Decoder make_decoder(const nlohmann::json& config, const std::string& from,
                         const DecoderOptions& options) {
  const auto names = config.find("architectures");
  if (!config.is_object() || names == config.end() || !names->is_array() || names->size() != 1 ||
      !names->front().is_string())
    throw ConfigError(from + ": `architectures`: expected a list of one name, one of: " + known());
  const std::string name = names->front().get<std::string>();
  const auto found = kRegistry.find(name);
  if (found == kRegistry.end())
    throw ConfigError(from + ": `architectures`: unknown architecture `" + name +
                      "`; known are: " + known());
  const Keys keys(config, from, options.places);
  nn::Decoder decoder = found->second(keys, options);
  keys.refuse_unknown({"architectures", "model_type"});
  decoder.architecture = name;
  return decoder;
}

}  // namespace conclave::models
