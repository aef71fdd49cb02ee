// Weights and optimizer state of a model whose checkpoint holds experts transposed: saved, restored
// to the bit, and loaded by ranks that hold parts of them.
#include "train/state.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <mutex>
#include <nlohmann/json.hpp>

#include "checkpoint/testing.h"
#include "models/registry.h"

namespace conclave::train {
namespace {

using checkpoint::TempFolder;

nn::Decoder make_gpt_oss(at::ScalarType dtype) {
  const nlohmann::json config = {{"architectures", {"GptOssForCausalLM"}},
                                 {"hidden_size", 12},
                                 {"num_hidden_layers", 2},
                                 {"vocab_size", 29},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", 2},
                                 {"head_dim", 6},
                                 {"intermediate_size", 10},
                                 {"num_local_experts", 3},
                                 {"num_experts_per_tok", 2},
                                 {"sliding_window", 5},
                                 {"max_position_embeddings", 16}};
  return models::make_decoder(config, "config.json", {.dtype = dtype});
}

optim::AdamW make_adamw(parallel::Units& units) {
  std::vector<optim::FlatShard> shards;
  for (const auto& s : units.shards())
    shards.push_back({s.weights, s.grad, s.decay_ranges, s.unit->trained()});
  return optim::AdamW({}, std::move(shards));
}

// Everything a run keeps of its shards, each with its own values.
std::vector<at::Tensor> kept(parallel::Units& units, optim::AdamW& optimizer) {
  std::vector<at::Tensor> all;
  for (size_t i = 0; i < units.shards().size(); ++i)
    for (const at::Tensor& t :
         {units.shards()[i].weights, optimizer.m(i), optimizer.v(i), optimizer.lo(i)})
      if (t.defined()) all.push_back(t);
  return all;
}

void fill(const at::Tensor& t, int seed) {
  const int64_t n = t.numel();
  for (int64_t i = 0; i < n; ++i) t[i] = static_cast<int>((37 * i + 11 * seed) % 251);
}

TEST(State, TransposedExpertsAreRestoredToTheBit) {
  TempFolder dir;
  const auto comm = comm::single();
  for (at::ScalarType dtype : {at::kBFloat16, at::kDouble}) {
    nn::Decoder decoder = make_gpt_oss(dtype), again = make_gpt_oss(dtype);
    parallel::Units units(decoder, *comm), others(again, *comm);
    optim::AdamW optimizer = make_adamw(units), other = make_adamw(others);
    int seed = 0;
    for (const at::Tensor& t : kept(units, optimizer)) fill(t, ++seed);
    const checkpoint::FolderContents contents = [&] {
      auto c = contents_of(units, optimizer, {.step = 3});
      c.config_json = "{}";
      return c;
    }();
    const auto file_shape = [&](const std::string& name) {
      for (const auto& tensor : contents.tensors)
        if (tensor.name == name) return tensor.data.sizes().vec();
      return std::vector<int64_t>();
    };
    EXPECT_EQ(file_shape("model.layers.0.mlp.experts.gate_up_proj"),
              (std::vector<int64_t>{3, 12, 20}));
    EXPECT_EQ(file_shape("model.layers.1.mlp.experts.down_proj"),
              (std::vector<int64_t>{3, 10, 12}));
    checkpoint::save_folder(dir / "state", contents);
    EXPECT_EQ(restore(dir / "state", others, other).step, 3);
    const auto want = named_tensors(units, [&](size_t i) { return optimizer.m(i); });
    const auto got = named_tensors(others, [&](size_t i) { return other.m(i); });
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(want[i].data.equal(got[i].data));
    // A second save of what was restored has the same bytes.
    auto second = contents_of(others, other, {.step = 3});
    second.config_json = "{}";
    checkpoint::save_folder(dir / "second", second);
    for (const char* name : {"model.safetensors", "optimizer.safetensors"})
      EXPECT_TRUE(read_file(dir / "state" / name) == read_file(dir / "second" / name)) << name;
  }
}

TEST(State, RanksLoadTheirPartsOfTransposedExperts) {
  TempFolder dir;
  const auto comm = comm::single();
  nn::Decoder decoder = make_gpt_oss(at::kDouble);
  parallel::Units units(decoder, *comm, {.training = false});
  int seed = 0;
  for (auto& shard : units.shards()) fill(shard.weights, ++seed);
  checkpoint::save_folder(dir / "m", {.config_json = "{}", .tensors = weight_tensors(units)});
  std::mutex one_at_a_time;
  for (int ranks : {2, 4})
    comm::run_threads(ranks, [&](comm::Comm& mine) {
      nn::Decoder part = make_gpt_oss(at::kDouble);
      parallel::Units parts(part, mine, {.training = false});
      load_weights(checkpoint::HfFolder(dir / "m"), parts,
                   [&](size_t i) { return parts.shards()[i].weights; });
      const std::lock_guard lock(one_at_a_time);
      for (size_t i = 0; i < parts.shards().size(); ++i) {
        const parallel::Shard& shard = parts.shards()[i];
        for (auto [piece, at] : shard.unit->layout().pieces_in(shard.range))
          EXPECT_TRUE(shard.weights.narrow(0, at.begin - shard.range.begin, at.size())
                          .equal(units.shards()[i].weights.narrow(0, at.begin, at.size())))
              << shard.unit->layout().pieces[static_cast<size_t>(piece)].name;
      }
    });
}

}  // namespace
}  // namespace conclave::train
