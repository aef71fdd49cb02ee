#include "checkpoint/writer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <optional>

namespace conclave::checkpoint {
namespace {

constexpr int64_t kAlign = 64;

template <class F>
void each_tensor(FolderContents& contents, const F& f) {
  for (NamedTensor& tensor : contents.tensors) f(tensor.data);
  for (auto& [name, tensors] : contents.beside)
    for (NamedTensor& tensor : tensors) f(tensor.data);
}

int64_t aligned_bytes(const at::Tensor& tensor) {
  return (static_cast<int64_t>(tensor.nbytes()) + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

BackgroundWriter::~BackgroundWriter() {
  if (pending_.valid()) pending_.wait();
}

void BackgroundWriter::submit(FolderContents contents, Write write) {
  finish();
  int64_t bytes = 0;
  each_tensor(contents, [&](const at::Tensor& tensor) { bytes += aligned_bytes(tensor); });
  std::optional<at::Device> gpu;
  each_tensor(contents, [&](const at::Tensor& tensor) {
    if (!tensor.is_cpu()) gpu = tensor.device();
  });
  if (!buffer_.defined() || buffer_.numel() < bytes) {
    buffer_ = at::Tensor();  // the old one is freed before the larger one is made
    buffer_ =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(gpu.has_value()));
  }
  int64_t at = 0;
  each_tensor(contents, [&](at::Tensor& tensor) {
    const int64_t end = at + aligned_bytes(tensor);
    at::Tensor copy = at::from_blob(static_cast<char*>(buffer_.data_ptr()) + at, tensor.sizes(),
                                    tensor.options().device(at::kCPU));
    copy.copy_(tensor, /*non_blocking=*/true);
    tensor = copy;
    at = end;
  });
  if (gpu) c10::impl::VirtualGuardImpl(gpu->type()).getStream(*gpu).synchronize();
  pending_ = std::async(std::launch::async, [contents = std::move(contents),
                                             write = std::move(write)] { write(contents); });
}

void BackgroundWriter::finish() {
  if (pending_.valid()) pending_.get();
}

bool BackgroundWriter::busy() const {
  return pending_.valid() &&
         pending_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

}  // namespace conclave::checkpoint
