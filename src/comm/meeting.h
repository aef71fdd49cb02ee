// Where the threads that are ranks meet: each brings its call, all of a group go on together or all
// throw.
#pragma once
#include <c10/util/Exception.h>

#include <condition_variable>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/call.h"

namespace conclave::comm {

// Thrown on the ranks that wait for one that has left: its consequence, not a fault of their own.
struct RankLeft : c10::Error {
  using c10::Error::Error;
};

class Meetings;

// The meetings of one group. Ranks are those of the group, 0 … size−1.
class Meeting {
 public:
  struct Brought {
    Call call;
    const char* in;  // its buffers, alive until finish
    char* out;
  };

  // `members`: ranks of the world.
  Meeting(Meetings& all, std::string name, std::vector<int> members)
      : all_(all),
        name_(std::move(name)),
        members_(std::move(members)),
        brought_(members_.size()),
        waits_(members_.size()) {}
  int size() const { return static_cast<int>(brought_.size()); }
  const std::string& name() const { return name_; }

  // Waits until every rank has brought its call. Throws on every rank if they do not match (then
  // and at any later call) or if all ranks of the world wait for one another, RankLeft if one will
  // not come. Between arrive and finish each rank may read what the others brought.
  void arrive(int rank, Brought brought);
  const Brought& of(int rank) const { return brought_[static_cast<size_t>(rank)]; }
  // Waits until every rank is done with what the others brought.
  void finish(int rank);

 private:
  friend class Meetings;
  void wait_for_all(std::unique_lock<std::mutex>& lock, int rank);
  void fail(const std::string& why);
  std::string text_of(int rank) const;  // "rank 5 waits in ep #3 all_to_all …"

  Meetings& all_;
  const std::string name_;
  const std::vector<int> members_;
  std::condition_variable changed_;
  std::vector<Brought> brought_;  // by rank: the last call it brought
  std::vector<bool> waits_;       // by rank: at the present meeting point
  std::string mismatch_;          // not empty: no further call can match
  std::string left_;              // not empty: which rank left first, and why
  int waiting_ = 0;               // ranks at the present meeting point
  int64_t met_ = 0;               // meeting points that all ranks have reached
};

// All meetings of the ranks of a world.
class Meetings {
 public:
  explicit Meetings(int world)
      : world_(world), present_(world), made_(static_cast<size_t>(world)), left_(made_.size()) {}
  int world() const { return world_; }

  // The meeting of `members`, ranks of the world: the same for all of them that ask for it as their
  // so many-th. Throws if they do not agree on its name.
  Meeting& of(int rank, const std::vector<int>& members, const std::string& name);
  // The rank makes no further call; `why` follows "rank 2 has left: ", e.g. "it returned".
  void leave(int rank, const std::string& why);

 private:
  friend class Meeting;
  // All that are left wait, and nobody can go on: tells all of them who waits where.
  void look_for_deadlock();

  std::mutex mutex_;  // of the meetings too
  const int world_;
  int present_;                    // ranks that have not left
  int blocked_ = 0;                // of these, ranks that wait
  std::vector<int> made_;          // by rank: how many meetings it asked for
  std::vector<std::string> left_;  // by rank: not empty if it has left
  std::map<std::pair<int, std::vector<int>>, Meeting*> by_members_;
  std::list<Meeting> meetings_;
};

}  // namespace conclave::comm
