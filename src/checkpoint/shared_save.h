// A model folder written by all ranks at once, whole or not at all: each writes the bytes of what
// it holds straight into the final files, so no rank ever holds more than its own. The files are
// those that save.h writes, to the byte; manifest.json has a checksum a part instead of one a file.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/save.h"
#include "comm/comm.h"

namespace conclave::checkpoint {

// A tensor of the folder, and what of it this rank writes.
struct TensorPart {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;  // the whole tensor's, here
  bool transposed = false;     // the file has its last two dims swapped
  // [n] contiguous: the elements first … first + n − 1 of the row-major tensor;
  // undefined: other ranks write all of it.
  at::Tensor data = {};
  int64_t first = 0;
};

struct SharedContents {
  std::string config_json;
  // Names, types, shapes and order are the same on all ranks; each element is one rank's.
  std::vector<TensorPart> tensors;
  std::map<std::string, std::vector<TensorPart>> beside;
  std::map<std::string, std::string> files;  // rank 0's count
  int64_t max_shard_bytes = 5'000'000'000;
};

// As save_folder of save.h, of tensors on the CPU. Collective over `ranks`, with CPU tensors; all
// ranks see `target` under the same name. Throws on all ranks what any of them met, with the
// temporary folder removed and the target as it was.
void save_folder(const std::filesystem::path& target, const SharedContents& contents,
                 comm::Comm& ranks);

}  // namespace conclave::checkpoint
