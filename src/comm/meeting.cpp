#include "comm/meeting.h"

#include <algorithm>

namespace conclave::comm {
namespace {

std::string list_of(const std::vector<int>& ranks) {
  std::string text;
  for (int r : ranks) text += (text.empty() ? "" : ", ") + std::to_string(r);
  return text;
}

}  // namespace

void Meeting::arrive(int rank, Brought brought) {
  std::unique_lock lock(all_.mutex_);
  brought_[static_cast<size_t>(rank)] = std::move(brought);
  if (mismatch_.empty() && waiting_ + 1 == size()) {
    std::vector<Call> calls;
    for (const Brought& b : brought_) calls.push_back(b.call);
    if (const std::string why = mismatch(calls); !why.empty())
      fail(name_.empty() ? why : name_ + " of ranks " + list_of(members_) + ": " + why);
  }
  wait_for_all(lock, rank);
}

void Meeting::finish(int rank) {
  std::unique_lock lock(all_.mutex_);
  wait_for_all(lock, rank);
}

// Nobody who waits here is blocked any more.
void Meeting::fail(const std::string& why) {
  mismatch_ = why;
  all_.blocked_ -= std::exchange(waiting_, 0);
  changed_.notify_all();
}

std::string Meeting::text_of(int rank) const {
  return "rank " + std::to_string(members_[static_cast<size_t>(rank)]) + " waits in " +
         (name_.empty() ? "" : name_ + " ") + of(rank).call.text();
}

// Success is that all have met, looked at first: one that went on from here may have left since.
void Meeting::wait_for_all(std::unique_lock<std::mutex>& lock, int rank) {
  const auto failed = [&] { return !mismatch_.empty() || !left_.empty(); };
  if (!failed()) {
    if (waiting_ + 1 == size()) {
      all_.blocked_ -= std::exchange(waiting_, 0);
      waits_.assign(waits_.size(), false);
      ++met_;
      changed_.notify_all();
      return;
    }
    const int64_t before = met_;
    ++waiting_;
    waits_[static_cast<size_t>(rank)] = true;
    ++all_.blocked_;
    all_.look_for_deadlock();
    changed_.wait(lock, [&] { return met_ != before || failed(); });
    if (met_ != before) return;
  }
  TORCH_CHECK(mismatch_.empty(), mismatch_);
  throw RankLeft({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
                 text_of(rank) + ", but " + left_);
}

Meeting& Meetings::of(int rank, const std::vector<int>& members, const std::string& name) {
  TORCH_CHECK(!members.empty() && std::is_sorted(members.begin(), members.end()) &&
                  std::count(members.begin(), members.end(), rank) == 1 && members.front() >= 0 &&
                  members.back() < world_,
              "group ", name, ": expected ascending ranks of 0 … ", world_ - 1, " with ", rank,
              " among them, got ", list_of(members));
  const std::lock_guard lock(mutex_);
  Meeting*& meeting = by_members_[{made_[static_cast<size_t>(rank)]++, members}];
  if (!meeting) {
    meeting = &meetings_.emplace_back(*this, name, members);
    for (int r : members)
      if (meeting->left_.empty()) meeting->left_ = left_[static_cast<size_t>(r)];
  }
  TORCH_CHECK(meeting->name() == name, "group of ranks ", list_of(members), ": rank ", rank,
              " calls it ", name, ", another rank ", meeting->name());
  return *meeting;
}

void Meetings::leave(int rank, const std::string& why) {
  const std::lock_guard lock(mutex_);
  const std::string& text = left_[static_cast<size_t>(rank)] =
      "rank " + std::to_string(rank) + " has left: " + why;
  --present_;
  for (Meeting& m : meetings_)
    if (m.left_.empty() && std::count(m.members_.begin(), m.members_.end(), rank)) {
      m.left_ = text;
      blocked_ -= std::exchange(m.waiting_, 0);
      m.changed_.notify_all();
    }
  look_for_deadlock();
}

void Meetings::look_for_deadlock() {
  if (blocked_ < present_ || blocked_ == 0) return;
  std::map<int, std::string> waits;  // by rank of the world
  for (const Meeting& m : meetings_)
    for (int r = 0; m.waiting_ > 0 && r < m.size(); ++r)
      if (m.waits_[static_cast<size_t>(r)])
        waits[m.members_[static_cast<size_t>(r)]] = m.text_of(r);
  std::string text = "all ranks wait for one another";
  for (const auto& [rank, wait] : waits) text += "; " + wait;
  for (Meeting& m : meetings_)
    if (m.waiting_ > 0) m.fail(text);
}

}  // namespace conclave::comm
