#include "checkpoint/writer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <chrono>
#include <optional>

namespace conclave::checkpoint {
namespace {

constexpr int64_t kAlign = 64;

std::vector<at::Tensor*> tensors_of(FolderContents& contents) {
  std::vector<at::Tensor*> all;
  for (NamedTensor& tensor : contents.tensors) all.push_back(&tensor.data);
  for (auto& [name, tensors] : contents.beside)
    for (NamedTensor& tensor : tensors) all.push_back(&tensor.data);
  return all;
}

std::vector<at::Tensor*> tensors_of(SharedContents& contents) {
  std::vector<at::Tensor*> all;
  const auto add = [&](std::vector<TensorPart>& parts) {
    for (TensorPart& part : parts)
      if (part.data.defined()) all.push_back(&part.data);
  };
  add(contents.tensors);
  for (auto& [name, parts] : contents.beside) add(parts);
  return all;
}

int64_t aligned_bytes(const at::Tensor& tensor) {
  return (static_cast<int64_t>(tensor.nbytes()) + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

BackgroundWriter::~BackgroundWriter() {
  if (pending_.valid()) pending_.wait();
}

void BackgroundWriter::submit(FolderContents contents, Write<FolderContents> write) {
  finish();
  copy(tensors_of(contents));
  start([contents = std::move(contents), write = std::move(write)] { write(contents); });
}

void BackgroundWriter::submit(SharedContents contents, Write<SharedContents> write) {
  finish();
  copy(tensors_of(contents));
  start([contents = std::move(contents), write = std::move(write)] { write(contents); });
}

void BackgroundWriter::copy(const std::vector<at::Tensor*>& tensors) {
  int64_t bytes = 0;
  std::optional<at::Device> gpu;
  for (const at::Tensor* tensor : tensors) {
    bytes += aligned_bytes(*tensor);
    if (!tensor->is_cpu()) gpu = tensor->device();
  }
  if (!buffer_.defined() || buffer_.numel() < bytes) {
    buffer_ = at::Tensor();  // the old one is freed before the larger one is made
    buffer_ =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(gpu.has_value()));
  }
  int64_t at = 0;
  for (at::Tensor* tensor : tensors) {
    const int64_t end = at + aligned_bytes(*tensor);
    at::Tensor copy = at::from_blob(static_cast<char*>(buffer_.data_ptr()) + at, tensor->sizes(),
                                    tensor->options().device(at::kCPU));
    copy.copy_(*tensor, /*non_blocking=*/true);
    *tensor = copy;
    at = end;
  }
  if (gpu) c10::impl::VirtualGuardImpl(gpu->type()).getStream(*gpu).synchronize();
}

void BackgroundWriter::start(std::function<void()> write) {
  pending_ = std::async(std::launch::async, [this, write = std::move(write)] {
    try {
      write();
    } catch (...) {
      failed_ = true;
      throw;
    }
  });
}

void BackgroundWriter::finish() {
  if (!pending_.valid()) return;
  pending_.wait();
  failed_ = false;
  pending_.get();
}

bool BackgroundWriter::busy() const {
  return pending_.valid() &&
         pending_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
}

}  // namespace conclave::checkpoint
