// Architectures by the name that a checkpoint's config.json gives them.
#pragma once
#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "nn/decoder.h"

namespace conclave::models {

class Keys;

struct DecoderOptions {
  at::ScalarType dtype = at::kFloat;  // of weights and activations: fp32, fp64 or bf16
  at::Device device = at::kCPU;       // where rotary tables lie: that of the weights to come
  // Coefficients of the router's losses (nn/router.h): auxiliary, sequence auxiliary, z; negative:
  // what config.json says, 0 where it has no key for it.
  double aux_coef = -1, sequence_aux_coef = -1, z_coef = -1;
  bool mtp = false;  // with the modules of multi-token prediction that config.json names
  nn::Share share = {};
  std::map<std::string, std::string>
      places;  // of a config that is written inline: where each key stands (base/config_tree.h);
               // unknown keys are refused then
};

// A decoder without data (its units are unbound) from the content of a config.json. `from` names
// the file in messages. Throws ConfigError: unknown architecture (with the known ones), a key that
// is missing or of the wrong type, a value that this version does not support.
nn::Decoder make_decoder(const nlohmann::json& config, const std::string& from,
                         const DecoderOptions& options);

std::vector<std::string> architectures();

// One line an architecture, defined in its file; registry.cpp lists them under their names.
nn::Decoder make_deepseek_v3(const Keys& keys, const DecoderOptions& options);
nn::Decoder make_gpt_oss(const Keys& keys, const DecoderOptions& options);
nn::Decoder make_olmoe(const Keys& keys, const DecoderOptions& options);
nn::Decoder make_qwen3_moe(const Keys& keys, const DecoderOptions& options);

}  // namespace conclave::models
