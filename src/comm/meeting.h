// Where the threads that are ranks meet: each brings its call, all go on together or all throw.
#pragma once
#include <c10/util/Exception.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "comm/call.h"

namespace conclave::comm {

// Thrown on the ranks that wait for one that has left: its consequence, not a fault of their own.
struct RankLeft : c10::Error {
  using c10::Error::Error;
};

class Meeting {
 public:
  struct Brought {
    Call call;
    const char* in;  // its buffers, alive until finish
    char* out;
  };

  explicit Meeting(int size) : brought_(static_cast<size_t>(size)) {}
  int size() const { return static_cast<int>(brought_.size()); }

  // Waits until every rank has brought its call. Throws on every rank if they do not match (then
  // and at any later call), RankLeft if one will not come. Between arrive and finish each rank may
  // read what the others brought.
  void arrive(int rank, Brought brought);
  const Brought& of(int rank) const { return brought_[static_cast<size_t>(rank)]; }
  // Waits until every rank is done with what the others brought.
  void finish(int rank);
  // The rank makes no further call; `why` follows "rank 2 has left: ", e.g. "it returned".
  void leave(int rank, const std::string& why);

 private:
  void wait_for_all(std::unique_lock<std::mutex>& lock, int rank);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Brought> brought_;  // by rank: the last call it brought
  std::string mismatch_;          // not empty: no further call can match
  std::string left_;              // not empty: which rank left first, and why
  int waiting_ = 0;               // ranks at the present meeting point
  int64_t met_ = 0;               // meeting points that all ranks have reached
};

}  // namespace conclave::comm
