// Saving while training goes on: tensors are copied to host memory when a save is submitted, and
// written by a thread.
#pragma once
#include <atomic>
#include <functional>
#include <future>
#include <vector>

#include "checkpoint/shared_save.h"

namespace conclave::checkpoint {

class BackgroundWriter {
 public:
  // What the thread does with the contents, e.g. calls RunFolder::save. Where several ranks save
  // together, each has a writer; they talk through a group that nobody else calls meanwhile.
  template <class Contents>
  using Write = std::function<void(const Contents&)>;

  BackgroundWriter() = default;
  ~BackgroundWriter();  // waits; an error that was not asked for by finish() is lost
  BackgroundWriter(const BackgroundWriter&) = delete;
  BackgroundWriter& operator=(const BackgroundWriter&) = delete;

  // Waits for the save before this one and throws its error, if it failed (then nothing is
  // submitted); else copies all tensors of `contents` into the writer's one buffer, which is kept
  // for the next time (pinned where a tensor is on a GPU), and returns while `write` runs on it.
  void submit(FolderContents contents, Write<FolderContents> write);
  void submit(SharedContents contents, Write<SharedContents> write);
  // Waits for the save in flight, if any; throws its error. After it the writer can be used again.
  void finish();
  bool busy() const;
  // Whether finish() has an error to throw already.
  bool failed() const { return failed_; }

 private:
  void copy(const std::vector<at::Tensor*>& tensors);
  void start(std::function<void()> write);

  at::Tensor buffer_;  // [bytes] uint8, as large as the largest snapshot yet
  std::future<void> pending_;
  std::atomic<bool> failed_{false};
};

}  // namespace conclave::checkpoint
