#include "comm/meeting.h"

namespace conclave::comm {

void Meeting::arrive(int rank, Brought brought) {
  std::unique_lock lock(mutex_);
  brought_[static_cast<size_t>(rank)] = std::move(brought);
  if (mismatch_.empty() && waiting_ + 1 == size()) {
    std::vector<Call> calls;
    for (const Brought& b : brought_) calls.push_back(b.call);
    mismatch_ = mismatch(calls);
  }
  wait_for_all(lock, rank);
}

void Meeting::finish(int rank) {
  std::unique_lock lock(mutex_);
  wait_for_all(lock, rank);
}

void Meeting::leave(int rank, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (left_.empty()) left_ = "rank " + std::to_string(rank) + " has left: " + why;
  changed_.notify_all();
}

// Success is that all have met, looked at first: one that went on from here may have left since.
void Meeting::wait_for_all(std::unique_lock<std::mutex>& lock, int rank) {
  const int64_t before = met_;
  if (++waiting_ == size() && mismatch_.empty()) {
    waiting_ = 0;
    ++met_;
  }
  changed_.notify_all();
  changed_.wait(lock, [&] { return met_ != before || !mismatch_.empty() || !left_.empty(); });
  if (met_ != before) return;
  TORCH_CHECK(mismatch_.empty(), mismatch_);
  throw RankLeft(
      {__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
      "rank " + std::to_string(rank) + " waits in " + of(rank).call.text() + ", but " + left_);
}

}  // namespace conclave::comm
