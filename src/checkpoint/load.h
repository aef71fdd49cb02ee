// Tensors of a model folder into memory that is already there: several threads read chunks of the
// files straight to where they belong, converted, transposed or dequantized on the way (stored.h).
#pragma once
#include <span>
#include <string>
#include <vector>

#include "checkpoint/folder.h"

namespace conclave::checkpoint {

struct LoadTarget {
  std::string name;            // the checkpoint's key
  std::vector<int64_t> shape;  // the whole tensor's
  // [count] or any shape of as many elements, contiguous: usually a view of a unit's flat buffer.
  // Gets the elements first … first + numel of the row-major tensor, so a shard loads its part
  // alone.
  at::Tensor into;
  int64_t first = 0;
  bool transposed = false;  // unquantized, the file has its last two dims swapped
};

// Targets of the same type as the file get its bytes. Between fp16, bf16, fp32 and fp64 values are
// converted, rounded once to nearest even where the target is narrower; FP8 and MXFP4 are
// dequantized to the values they have in fp32 (dequantize.h) and those converted; any other pair of
// types is an error. `ignore`: names the folder may have beyond the targets; `*` stands for any run
// of characters ("*.rotary_emb.inv_freq"). Before anything is read all names, shapes and types are
// checked; the RunError lists the first few that are missing, extra or misshapen (with expected and
// found shape), and how many there are. One read of the needed bytes, no copy between where types
// are the same; else a few MB a thread. What belongs on a GPU goes through pinned memory, of at
// most 1 GiB or the largest of those tensors, twice. The result does not depend on the number of
// threads (at::get_num_threads()).
void load_tensors(const HfFolder& folder, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore = {});

// The same from one file, as optimizer state is kept.
void load_tensors(const SafetensorsFile& file, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore = {});

}  // namespace conclave::checkpoint
