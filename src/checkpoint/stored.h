// How files hold one tensor of the model: as it is, with its last two dims swapped, or quantized.
// These are the rules by which a published checkpoint is read; load.h goes by them.
//   plain       NAME, shape and order as here
//   transposed  NAME, the last two dims swapped; where the model says so (GPT-OSS in bf16)
//   fp8         NAME in F8_E4M3 [rows, cols] and NAME_scale_inv in F32, one a block of 128 × 128
//               (DeepSeek-V3, Kimi-K2)
//   mxfp4       NAME_blocks in U8 [..., cols / 32, 16] and NAME_scales in U8 or F8_E8M0
//               [..., cols / 32]; never transposed (GPT-OSS as published)
#pragma once
#include <string>
#include <vector>

#include "checkpoint/folder.h"

namespace conclave::checkpoint {

struct LoadTarget;
using Places = std::map<std::string, HfFolder::Place>;

enum class Form { plain, transposed, fp8, mxfp4 };

struct Stored {
  Form form = Form::plain;
  HfFolder::Place values{};  // NAME, or NAME_blocks
  HfFolder::Place scales{};  // of the quantized ones
  std::string complaint;     // what is wrong, naming the tensor; empty: the above holds
};

// The form in which `places` hold the target. A target of an F8 type is plain: it gets the codes.
Stored find_stored(const LoadTarget& target, const Places& places);

// The names that a target called `name` has in files, held in that form.
std::vector<std::string> names_of(const std::string& name, Form form);

// "[2, 3]": for messages.
std::string shape_text(const std::vector<int64_t>& shape);

// What config.json says of the quantization is what the rules above take for granted: blocks of
// 128 × 128. Throws RunError naming the key.
void check_fp8_config(const HfFolder& folder);

}  // namespace conclave::checkpoint
