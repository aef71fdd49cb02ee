// The YAML of `conclave pretrain`.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "comm/rank_layout.h"
#include "data/text.h"
#include "optim/adamw.h"
#include "optim/schedule.h"

namespace conclave::recipes {

struct ModelSection {
  ConfigTree config;                // new weights
  std::optional<std::string> from;  // or those of a folder
  std::optional<double> aux_coef, sequence_aux_coef, z_coef;
  std::optional<double> bias_update_rate, mtp_weight;
  void fields(auto& f) {
    f("config", config,
      "a model to start from nothing: the content of a Hugging Face config.json (vocab_size may be "
      "left out)");
    f("from", from, "or a Hugging Face model folder to go on from, with its tokenizer");
    f("aux_coef", aux_coef,
      "coefficient of the router's auxiliary loss, instead of the model config's", not_negative);
    f("sequence_aux_coef", sequence_aux_coef,
      "the same of its sequence auxiliary loss, which balances each document", not_negative);
    f("z_coef", z_coef, "coefficient of its z-loss, which keeps the logits small", not_negative);
    f("bias_update_rate", bias_update_rate,
      "step of the router's correction bias towards even loads after each optimizer step; 0.001 "
      "where "
      "the model has one",
      not_negative);
    f("mtp_weight", mtp_weight,
      "weight of multi-token prediction's loss where the model has modules for it; 0 leaves them "
      "out. 0.3 if not set; in a folder without their weights they are left out",
      not_negative);
  }
};

struct DataSection {
  data::TextConfig text;
  std::string tokenizer;
  std::string eos = "<|endoftext|>";
  int64_t seq_len = 256;
  std::string documents = "separate";
  std::string cache = ".cache/tokens";
  void fields(auto& f) {
    f("text", text, "what is read");
    f("tokenizer", tokenizer,
      "folder with tokenizer.json (conclave train-tokenizer makes one); model.from has its own");
    f("eos", eos, "the token that closes a document");
    f("seq_len", seq_len, "tokens in a packed row", at_least(2));
    f("documents", documents,
      "separate: attention stays within a document; joined: a row is one, whatever documents it "
      "holds",
      one_of({"separate", "joined"}));
    f("cache", cache, "folder for tokenized text");
  }
};

struct BatchSection {
  int64_t rows = 16;
  int64_t micro_rows = 16;
  void fields(auto& f) {
    f("rows", rows, "packed rows in a step", at_least(1));
    f("micro_rows", micro_rows, "rows at once; gradients add up over the micro-batches of a step",
      at_least(1));
  }
};

struct ValidationSection {
  int64_t every = 100;
  bool bigram = false;
  void fields(auto& f) {
    f("every", every, "steps between validations; 0: with checkpoints only", not_negative);
    f("bigram", bigram,
      "also fit a bigram model on the training text and print its loss as a yardstick");
  }
};

struct CheckpointSection {
  int64_t every = 500;
  int64_t keep_last = 2;
  std::string layout = "shared";
  void fields(auto& f) {
    f("every", every, "steps between checkpoints; 0: at the end only", not_negative);
    f("keep_last", keep_last, "how many of the newest to keep, beside the best", at_least(1));
    f("layout", layout,
      "of several ranks: shared, all write into the files of one model folder; per_rank, each into "
      "a file of its own, for stores that cannot write into the middle of one (conclave merge "
      "joins them)",
      one_of({"shared", "per_rank"}));
  }
};

struct MemorySection {
  std::vector<std::string> recompute;
  void fields(auto& f) {
    f("recompute", recompute,
      "tensor classes that the backward makes again instead of keeping them (--dry-run lists their "
      "sizes)");
  }
};

struct PretrainConfig {
  std::string output;
  std::string resume = "auto";
  int64_t seed = 1;
  int64_t threads = 0;
  std::string device = "auto";
  bool deterministic = false, cuda_graph = false;
  std::string dtype = "fp32";
  int64_t steps = 1000;
  double clip_norm = 1;
  int64_t max_skipped = 10;
  ModelSection model;
  DataSection data;
  BatchSection batch;
  optim::AdamWConfig optimizer;
  optim::ScheduleConfig schedule;
  ValidationSection validation;
  CheckpointSection checkpoint;
  MemorySection memory;
  comm::ParallelConfig parallel;

  void fields(auto& f) {
    f("output", output, "folder of the run: checkpoints, metrics.jsonl, summary.json");
    f("resume", resume,
      "auto: from the output's latest checkpoint if there is one; never; or a checkpoint's folder");
    f("seed", seed, "of weights and of the order of rows", not_negative);
    f("threads", threads, "CPU threads; 0: all cores. The results do not depend on it",
      not_negative);
    f("device", device, "auto: a GPU where there is one", one_of({"auto", "cpu", "cuda"}));
    f("deterministic", deterministic,
      "on a GPU too the same bits from the same run; attention's backward is slower");
    f("cuda_graph", cuda_graph,
      "on a GPU a step is launched as a whole, with the same bits; needs dtype bf16 and "
      "data.documents joined");
    f("dtype", dtype, "of weights and activations; bf16 keeps an exact fp32 master",
      one_of({"fp32", "bf16", "fp64"}));
    f("steps", steps, "optimizer steps", at_least(1));
    f("clip_norm", clip_norm, "largest global norm of the gradient; 0: no clipping", not_negative);
    f("max_skipped", max_skipped,
      "steps in a row that may be skipped because the loss or a gradient is not finite; one more "
      "is an error",
      not_negative);
    f("model", model, "what is trained");
    f("data", data, "on what");
    f("batch", batch, "how much at a time");
    f("optimizer", optimizer, "AdamW");
    f("schedule", schedule, "learning rate over the steps");
    f("validation", validation, "on the documents held out");
    f("checkpoint", checkpoint, "when to save");
    f("parallel", parallel,
      "how several ranks share the work (conclave launch, torchrun, srun, mpirun)");
    f("memory", memory, "what the backward keeps");
  }
};

}  // namespace conclave::recipes
