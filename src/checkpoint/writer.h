// Saving while training goes on: tensors are copied to host memory when a save is submitted, and
// written by a thread.
#pragma once
#include <functional>
#include <future>

#include "checkpoint/save.h"

namespace conclave::checkpoint {

class BackgroundWriter {
 public:
  using Write = std::function<void(const FolderContents&)>;  // e.g. calls RunFolder::save

  BackgroundWriter() = default;
  ~BackgroundWriter();  // waits; an error that was not asked for by finish() is lost
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  // Waits for the save before this one and throws its error, if it failed (then nothing is
  // submitted); else copies all tensors of `contents` into the writer's one buffer, which is kept
  // for the next time (pinned where a tensor is on a GPU), and returns while `write` runs on it.
  void submit(FolderContents contents, Write write);
  // Waits for the save in flight, if any; throws its error. After it the writer can be used again.
  void finish();
  bool busy() const;

 private:
  at::Tensor buffer_;  // [bytes] uint8, as large as the largest snapshot yet
  std::future<void> pending_;
};

}  // namespace conclave::checkpoint
