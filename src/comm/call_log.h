// What one rank calls, over all its groups: the last calls are kept, so that a rank which waits in
// vain can say what led there, and others can see how far it came.
#pragma once
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <vector>

#include "comm/call.h"

namespace conclave::comm {

// How far a rank is in one of its groups.
struct GroupState {
  std::string name;
  std::vector<int> ranks;  // of the world
  int64_t begun = 0;       // sequence of the last call that began, 0: none
  int64_t sequence = 0;    // of the oldest call that has not ended, or of the last one
  std::string call;        // its text
  bool busy = false;       // it has not ended
  double seconds = 0;      // since it began if busy, else since it ended
};

// What a rank publishes of itself.
struct RankState {
  int rank = 0;
  std::string host;
  int64_t pid = 0;
  int64_t beat = 0;  // grows while the process runs
  std::string left;  // not empty: it makes no further call, and why
  std::vector<GroupState> groups;
  int last = -1;  // the group in whose call it is longest, else that of its last call; -1: none yet
};
std::string to_text(const RankState& state);
RankState rank_state(const std::string& text);  // throws RunError if it is not of to_text

class CallLog {
 public:
  static constexpr size_t kKept = 64;

  // A group of these ranks; returns its number here. `aside`: a thread beside the main one calls
  // it, so its calls do not tell how far the rank is: RankState::last is never this group.
  int add_group(std::string name, std::vector<int> ranks, bool aside = false);
  // A call begins: numbered in its group, from 1. Returns the number.
  int64_t begin(int group, Call& call);
  void end(int group, int64_t sequence);          // this call has ended
  void end_through(int group, int64_t sequence);  // it and those before it in the group have

  std::string current(int group) const;  // GroupState::call: "dp #3 all_reduce Float [4]"
  // The last kKept calls, oldest first, one line each.
  std::vector<std::string> lines() const;
  void fill(RankState& state) const;

 private:
  struct Entry {
    int group = 0;
    Call call;
    double begun = 0, ended = -1;
  };
  struct Group {
    std::string name;
    std::vector<int> ranks;
    bool aside = false;
    int64_t begun = 0;
    std::deque<Entry> under_way;
    std::string last;  // of the last call that began
    double ended = 0;  // when a call ended last
  };

  void end_where(int group, int64_t first, int64_t last);

  mutable std::mutex mutex_;
  std::vector<Entry> ring_;
  size_t count_ = 0;  // calls so far
  std::vector<Group> groups_;
  int last_ = -1;
};

// Why rank `me` waits in the call of its group RankState::last: who has not come, and what that one
// is doing, as one line. `before` and `now` are the states of all ranks, by rank, about a second
// apart: a rank whose beat stands still is dead or stopped.
std::string who_waits_for_whom(int me, const std::vector<RankState>& before,
                               const std::vector<RankState>& now);

}  // namespace conclave::comm
