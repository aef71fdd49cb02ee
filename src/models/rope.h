// The rotary embedding's part of a config.json.
#pragma once
#include "models/keys.h"
#include "nn/attention.h"

namespace conclave::models {

// From `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (published), of
// rope_type (or type) `default` or `yarn`. Refuses other types, and keys of theirs that are
// unknown, malformed or without effect. `otherwise` holds where config.json has neither of the two
// tables; its theta also where there is none in them.
ops::RopeConfig read_rope(const Keys& k, const ops::RopeConfig& otherwise);
ops::RopeConfig read_rope(const Keys& k, double default_theta);

// Of q·k before the softmax: 1/√head_dim, with YaRN times the square of its mscale at
// mscale_all_dim, as DeepSeek has it.
double attention_scale(const ops::RopeConfig& rope, int64_t head_dim);

}  // namespace conclave::models
