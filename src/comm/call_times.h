// How long this rank's calls take, waiting for other ranks included: the rank for which all wait is
// the one whose own calls are short (train/slowest_rank.h).
#pragma once
#include <memory>

#include "comm/groups.h"

namespace conclave::comm {

// Calls on CPU tensors are timed by the host's clock, those on a GPU by events on the current
// stream: the host waits for nothing. For one thread.
class CallTimes {
 public:
  struct Calls;
  class Round {  // of some calls
   public:
    // Seconds in all of them. The host waits for those that a GPU has not done.
    double seconds() const;

   private:
    friend class CallTimes;
    std::shared_ptr<Calls> calls_;
  };

  CallTimes();
  // Calls count from here on, those before do not.
  void open();
  Round close();  // those that counted

  void begin(at::Device device);  // of a call on tensors there
  void end(at::Device device);

 private:
  std::shared_ptr<Calls> calls_;
};

// The groups of another factory, timed. That factory and `times` must outlive them.
class TimedFactory final : public CommFactory {
 public:
  TimedFactory(CommFactory& real, CallTimes& times) : real_(real), times_(times) {}
  int rank() const override { return real_.rank(); }
  int world() const override { return real_.world(); }
  std::unique_ptr<Comm> make(const std::vector<int>& ranks, const std::string& name) override;

 private:
  CommFactory& real_;
  CallTimes& times_;
};

}  // namespace conclave::comm
