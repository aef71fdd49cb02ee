// The JSON header of a safetensors file: text to checked tensor list and back. Knows no files, so
// hostile bytes are tested here.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/safetensors.h"

namespace conclave::checkpoint {

constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct Header {
  std::vector<TensorInfo> tensors;  // in the order of their bytes
  Metadata metadata;
};

// `file` holds the whole file. Throws RunError "PATH: …" as SafetensorsFile says.
Header parse_header(std::string_view file, const std::string& path);

// The first bytes of a file, length field included, padded with spaces to a multiple of 8; `order`
// becomes the order in which the tensors' bytes have to follow.
std::string make_header(std::span<const NamedTensor> tensors, const Metadata& metadata,
                        std::vector<const NamedTensor*>& order);

}  // namespace conclave::checkpoint
