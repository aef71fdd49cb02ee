// `conclave forward`: logits, loss, chosen experts, gradients and a few optimizer steps of a model
// folder on given ids, for anyone who wants to compare with a reference.
#pragma once
#include <string>

namespace conclave::recipes {

struct ForwardOptions {
  std::string model;  // a model folder
  std::string ids;    // safetensors with input_ids and maybe labels, I64 [batch, seq], or [steps,
                      // batch, seq] with steps
  std::string out;    // safetensors to be written; a file that is there survives a failure
  std::string dtype = "fp32", device = "cpu";
  bool grads = false;
  int64_t steps = 0;     // > 0: that many AdamW steps; only `losses` [steps] is written
  bool timings = false;  // with steps: `seconds` [steps] beside it
  // With grads: multi-token prediction's loss, `mtp_loss`, times this takes part in the gradients.
  double mtp_weight = 0;
};

void forward(const ForwardOptions& options);

}  // namespace conclave::recipes
