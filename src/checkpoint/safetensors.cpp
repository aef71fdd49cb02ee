#include "checkpoint/safetensors.h"

#include <ATen/ops/from_blob.h>
#include <unistd.h>

#include <algorithm>

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "checkpoint/header.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {
namespace {

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Calls f with `tensor`, or with copies of its matrices in their order where it is a view of
// another order, so that at most one matrix is held twice.
template <class F>
void each_contiguous(const at::Tensor& tensor, const F& f) {
  if (tensor.is_contiguous() || tensor.dim() <= 2) return f(tensor.contiguous());
  for (int64_t i = 0; i < tensor.size(0); ++i) each_contiguous(tensor.select(0, i), f);
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), map_(std::make_shared<const MappedFile>(path)) {
  Header header = parse_header(text_of(map_->bytes()), path);
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < tensors_.size(); ++i) index_[tensors_[i].name] = i;
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

int64_t SafetensorsFile::bytes() const { return static_cast<int64_t>(map_->bytes().size()); }

at::Tensor SafetensorsFile::view(const std::string& name) const {
  const TensorInfo* tensor = find(name);
  if (!tensor) throw RunError(path_.string() + ": no tensor `" + name + "` in it");
  // from_blob wants a pointer to change; the mapping is read-only, so a write through the view is a
  // fault and not damage.
  void* data = const_cast<std::byte*>(map_->bytes().data() + tensor->begin);
  return at::from_blob(
      data, tensor->shape, [map = map_](void*) {}, at::TensorOptions(tensor->dtype));
}

std::map<std::string, at::Tensor> read_tensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  std::map<std::string, at::Tensor> tensors;
  for (const TensorInfo& tensor : file.tensors())
    tensors[tensor.name] = file.view(tensor.name).clone();
  return tensors;
}

WrittenFile write_safetensors(const std::filesystem::path& path,
                              std::span<const NamedTensor> tensors, const Metadata& metadata) {
  std::vector<const NamedTensor*> order;
  const std::string header = make_header(tensors, metadata, order);
  OutputFile out(path);
  Hasher hasher;
  const auto put = [&](std::span<const std::byte> bytes) {
    constexpr size_t kPart = size_t{4} << 20;  // hashed while it is still in the cache
    for (size_t at = 0; at < bytes.size(); at += kPart) {
      const auto part = bytes.subspan(at, std::min(kPart, bytes.size() - at));
      hasher.update(part);
      out.write(part);
    }
  };
  put(std::as_bytes(std::span(header)));
  for (const NamedTensor* tensor : order)
    each_contiguous(tensor->data, [&](const at::Tensor& part) {
      put({static_cast<const std::byte*>(part.const_data_ptr()), part.nbytes()});
    });
  const WrittenFile written{static_cast<int64_t>(out.size()), hasher.digest()};
  fault_point("save/after_write");
  out.finish();
  fault_point("save/after_fsync");
  return written;
}

WrittenFile write_safetensors_atomic(const std::filesystem::path& path,
                                     std::span<const NamedTensor> tensors,
                                     const Metadata& metadata) {
  recover(path);
  const std::string staged = hidden_sibling(path, "tmp");
  try {
    const WrittenFile written = write_safetensors(staged, tensors, metadata);
    rename_path(staged, path);
    return written;
  } catch (...) {
    unlink(staged.c_str());
    throw;
  }
}

}  // namespace conclave::checkpoint
