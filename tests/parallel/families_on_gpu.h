// The five tiny models of configs/pretrain on the CPU and on a GPU, with the same weights, and rows
// for them. Names of tests that run on a GPU hold /CUDA (tools/gpu.sh).
#pragma once
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "base/config_tree.h"
#include "base/files.h"
#include "base/yaml.h"
#include "parallel/tiny.h"

#define CONCLAVE_NEEDS_GPU() \
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device"

namespace conclave::parallel::testing {

inline const std::vector<std::string>& shipped_families() {
  static const std::vector<std::string> all{"qwen3_moe_30b", "gptoss_20b", "gptoss_120b",
                                            "deepseek_v3", "kimi_k2"};
  return all;
}

// `model.config` of configs/pretrain/tiny_NAME.yaml.
inline nlohmann::json shipped_config(const std::string& name) {
  const std::string path = "configs/pretrain/tiny_" + name + ".yaml";
  const YamlNode file = parse_yaml(read_file(path), path);
  for (const YamlNode& model : file.children)
    for (const YamlNode& config : model.children)
      if (model.key == "model" && config.key == "config")
        return tree_json({std::make_shared<const YamlNode>(config)});
  ADD_FAILURE() << path << ": no model.config";
  return {};
}

inline std::string gpu_test_name(const ::testing::TestParamInfo<std::string>& info) {
  return "CUDA_" + info.param;
}

// `rows` rows of 64 tokens, in documents of several lengths unless they are `joined`.
inline Batch shipped_rows(int rows, bool joined = false, int seed = 0) {
  static const std::vector<std::vector<int64_t>> lengths = {{23, 41}, {64}, {1, 30, 33}, {40, 24}};
  std::vector<int64_t> ids, labels, positions;
  Batch b;
  b.rows.doc_offsets = b.rows.row_offsets = {0};
  for (int r = 0; r < rows; ++r) {
    const auto& documents = joined ? lengths[1] : lengths[static_cast<size_t>(r) % 4];
    for (int64_t length : documents) {
      for (int64_t t = 0; t < length; ++t) {
        const auto n = static_cast<int64_t>(ids.size()) + 1;
        ids.push_back((n * n * 37 + 101 * n * (seed + 1) + 13 * r) % 1021);
        positions.push_back(t);
      }
      const int64_t begin = b.rows.doc_offsets.back(), end = begin + length;
      for (int64_t t = begin; t < end; ++t)
        labels.push_back(t + 1 < end ? ids[static_cast<size_t>(t) + 1] : kIgnored);
      b.rows.doc_offsets.push_back(end);
    }
    b.rows.row_offsets.push_back(static_cast<int64_t>(ids.size()));
  }
  const auto whole = at::TensorOptions().dtype(at::kLong);
  b.ids = at::tensor(ids, whole);
  b.labels = at::tensor(labels, whole);
  b.rows.positions = at::tensor(positions, whole);
  return b;
}

// A model on one device in one type, with the weights of `like` or new ones.
struct OnDevice {
  OnDevice(const nlohmann::json& config, at::ScalarType dtype, at::Device device,
           OnDevice* like = nullptr, UnitsOptions options = {})
      : decoder(
            models::make_decoder(config, "tiny", {.dtype = dtype, .device = device, .mtp = true})),
        comm(comm::single()),
        units(decoder, *comm, on(device, options)) {
    if (!like) {
      initialise(units, 5, 0.08);
      fill_correction_biases(decoder);
      return;
    }
    for (size_t i = 0; i < units.shards().size(); ++i)
      units.shards()[i].weights.copy_(like->units.shards()[i].weights);
    units.weights_changed();
  }

  static UnitsOptions on(at::Device device, UnitsOptions options) {
    options.device = device;
    return options;
  }

  nn::Decoder decoder;
  std::unique_ptr<comm::Comm> comm;
  Units units;
  comm::LocalDispatcher dispatcher;
};

// Deterministic algorithms while it lives, as recipes choose them.
class Deterministic {
 public:
  Deterministic() {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  }
  ~Deterministic() { at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false); }
};

}  // namespace conclave::parallel::testing
