// The YAML of `conclave benchmark`.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"

namespace conclave::recipes {

struct BenchmarkModelSection {
  ConfigTree config;
  void fields(auto& f) {
    f("config", config, "the model: the content of its Hugging Face config.json");
  }
};

struct LayoutSection {
  int64_t gpus = 1, rows = 1, pp = 1, vp = 1, ep = 1, dp_shard = 1;
  double tokens_per_second = 0;
  void fields(auto& f) {
    f("gpus", gpus, "of the whole run", at_least(1));
    f("rows", rows, "sequences a step of the whole run", at_least(1));
    f("pp", pp, "pipeline ranks; the share of a middle one is run", at_least(1));
    f("vp", vp, "stages a pipeline rank", at_least(1));
    f("ep", ep, "ranks that share the experts", at_least(1));
    f("dp_shard", dp_shard, "ranks that share the optimizer's part of the other weights",
      at_least(1));
    f("tokens_per_second", tokens_per_second,
      "published, a GPU, to be printed beside; 0: nothing is", not_negative);
  }
};

struct BenchmarkBatchSection {
  int64_t seq_len = 4096, rows = 16, micro_rows = 1;
  void fields(auto& f) {
    f("seq_len", seq_len, "tokens in a sequence", at_least(2));
    f("rows", rows, "sequences a step of this rank", at_least(1));
    f("micro_rows", micro_rows, "of them at once", at_least(1));
  }
};

// How the run is made smaller where there is no GPU.
struct CpuSection {
  int64_t width = 16, heads = 8, head_dim = 4, layers = 4, seq_len = 256;
  void fields(auto& f) {
    f("width", width, "hidden size, widths, latents and vocabulary are divided by this",
      at_least(1));
    f("heads", heads, "numbers of heads are divided by this, to 1 at least", at_least(1));
    f("head_dim", head_dim, "sizes of a head are divided by this", at_least(1));
    f("layers", layers, "layers at most", at_least(1));
    f("seq_len", seq_len, "tokens in a sequence at most", at_least(2));
  }
};

// What stands for the time of a transfer between ranks.
struct TransferSection {
  int64_t dispatch = 0, combine = 0;
  std::string beside = "nothing";
  void fields(auto& f) {
    f("dispatch", dispatch, "microseconds that each dispatch takes longer", within(0, 1e6));
    f("combine", combine, "microseconds that each combine takes longer", within(0, 1e6));
    f("beside", beside,
      "what is computed meanwhile on a GPU: nothing; what a micro-batch itself has (its shared "
      "expert, weight gradients); or a second micro-batch too, whose activations are kept as well",
      one_of({"nothing", "micro_batch", "two_micro_batches"}));
  }
};

struct BenchmarkConfig {
  std::string output, profile;
  int64_t seed = 1234;
  int64_t threads = 0;
  std::string device = "auto";
  bool deterministic = false, cuda_graph = false;
  std::string gate = "real";
  std::string precision = "bf16";
  std::string memory_limit = "72 GiB";
  int64_t layers = 0;
  std::vector<std::string> recompute = {"auto"};
  std::string gradients = "bf16";
  int64_t warmup = 3, steps = 10, traced_steps = 2;
  double lr = 1e-4;
  BenchmarkModelSection model;
  LayoutSection layout;
  BenchmarkBatchSection batch;
  TransferSection transfer;
  CpuSection cpu;

  void fields(auto& f) {
    f("output", output, "JSON file for the results; empty: none");
    f("profile", profile,
      "JSON file for a trace of one step more, which Perfetto opens; empty: none. On a GPU with "
      "all "
      "kernels");
    f("seed", seed, "of weights and token ids", not_negative);
    f("threads", threads, "CPU threads; 0: all cores", not_negative);
    f("device", device, "auto: a GPU where there is one; without one a smaller model is run",
      one_of({"auto", "cpu", "cuda"}));
    f("deterministic", deterministic, "on a GPU: the same bits from the same run");
    f("cuda_graph", cuda_graph, "on a GPU: a step is recorded once and then one launch");
    f("gate", gate,
      "who chooses the experts: the model's router, all in turn (the published runs' gate), or "
      "chance",
      one_of({"real", "balanced", "uniform"}));
    f("precision", precision,
      "bf16: weights alone; master: with an exact fp32 master. Moments are bf16 with both",
      one_of({"bf16", "master"}));
    f("memory_limit", memory_limit, "what tensors may take, as `72 GiB`; none: what is free");
    f("layers", layers, "layers to run; 0: all that the rank holds, or the most that fit",
      not_negative);
    f("recompute", recompute,
      "tensor classes made again in the backward; [auto]: as few as needed of those that cost no "
      "product");
    f("gradients", gradients, "in which weight gradients add up; on the CPU always fp32",
      one_of({"bf16", "fp32"}));
    f("warmup", warmup, "steps before the timed ones", not_negative);
    f("steps", steps, "timed steps", at_least(1));
    f("traced_steps", traced_steps,
      "on a GPU: steps after these for the table of time by part; 0: none", not_negative);
    f("lr", lr, "learning rate of Adam", positive);
    f("model", model, "what is run");
    f("layout", layout, "the published run of which one rank's share is measured");
    f("batch", batch, "how much at a time");
    f("transfer", transfer,
      "delays in the place of what other ranks would send, to see them hidden");
    f("cpu", cpu, "the smaller run without a GPU");
  }
};

}  // namespace conclave::recipes
