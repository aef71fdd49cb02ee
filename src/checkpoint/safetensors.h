// One safetensors file, read through a memory mapping and written as a stream. The format: 8 bytes
// little-endian length of the header, a JSON header {"NAME": {"dtype", "shape", "data_offsets":
// [begin, end]}, "__metadata__": {…}}, then the tensors' bytes without gaps. Source:
// github.com/huggingface/safetensors.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"

namespace conclave::checkpoint {

using Metadata = std::map<std::string, std::string>;

struct TensorInfo {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // bytes of the file, from its start
  int64_t bytes() const { return end - begin; }
};

struct NamedTensor {
  std::string name;
  at::Tensor data;
};

// Opens and checks the whole header. Throws RunError, naming the file and what is wrong with it,
// unless the header is at most 100 MB and JSON of the form above, names are unique, shapes times
// element sizes fit the offsets, and the tensors fill the rest of the file without overlap or hole.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in the order of the file
  const Metadata& metadata() const { return metadata_; }
  const TensorInfo* find(const std::string& name) const;  // nullptr: not in this file
  int64_t bytes() const;                                  // of the file

  // The tensor's bytes as they lie in the file, no copy: read-only memory that lives as long as a
  // view of it. Throws RunError when the file has no such tensor.
  at::Tensor view(const std::string& name) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> map_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> index_;
  Metadata metadata_;
};

// All tensors of a file, copied into memory of their own.
std::map<std::string, at::Tensor> read_tensors(const std::filesystem::path& path);

struct WrittenPart {
  int64_t end = 0;  // byte of the file; it begins where the one before ends
  uint64_t xxh3 = 0;
};

struct WrittenFile {
  int64_t bytes = 0;
  uint64_t xxh3 = 0;  // of all its bytes, where it has no parts
  std::vector<WrittenPart> parts = {};
};

// Writes the file in place and fsyncs it; for a folder that is renamed later. Tensors: on the CPU,
// names unique and not "__metadata__"; one that is not contiguous is copied a matrix at a time. The
// order is the format's library's: element types from U64 down to BOOL, then names; so equal input
// makes equal bytes, the same as that library's. No other copy of the data is made. Throws RunError
// when the disk refuses.
WrittenFile write_safetensors(const std::filesystem::path& path,
                              std::span<const NamedTensor> tensors, const Metadata& metadata = {});

// The same for one file that stands alone: written beside `path` under a temporary name, then
// renamed. A file that was there survives any failure.
WrittenFile write_safetensors_atomic(const std::filesystem::path& path,
                                     std::span<const NamedTensor> tensors,
                                     const Metadata& metadata = {});

}  // namespace conclave::checkpoint
