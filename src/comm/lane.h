// Work beside the caller's stream: on a GPU a lane is a stream of its own, for what would hold up
// the caller's, transfers above all. A lane that is not open does its work at once, where it is
// called: on the CPU, and with one rank.
//
// Memory that crosses streams is guarded by events alone. What a work reads is held until its
// wait(), from when on the caller's stream is behind it. What it makes, in the lane's own pool of
// memory, may be let go at any time: whatever start() gives the lane later begins behind all that
// the caller's stream had been given by then.
//
// CONCLAVE_DELAYS=SEED:MICROSECONDS, for tests: before and after each work of a lane, and on the
// caller's stream when it starts one, half of the times a delay of at most so long, so that a wait
// that is missing shows itself. The lengths depend on the seed, the rank and the lane's name.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace c10 {
struct Event;
}

namespace conclave::comm {

// A place in the work of a GPU's stream.
class Mark {
 public:
  Mark() = default;  // behind nothing
  // Behind all that the device's current stream has been given; on the CPU behind nothing.
  static Mark here(at::Device device);
  void wait() const;  // the current stream goes on when that is done

 private:
  std::shared_ptr<const c10::Event> event_;
};

// What a lane was given.
class OnWay {
 public:
  // The caller's stream goes on behind it. The first call counts.
  void wait();

 private:
  friend class Lane;
  Mark done_;
  std::vector<at::Tensor> reads_;
};

struct Delays {
  uint64_t seed = 0;
  int64_t microseconds = 0;  // at most; 0: none
};
Delays delays_from_environment();

class Lane {
 public:
  // Nothing on the CPU.
  void open(std::string name, at::Device device, Delays delays = delays_from_environment());
  bool is_open() const { return stream_.has_value(); }

  // Runs `work` with the lane's stream as the current one, behind all that the caller's stream has
  // been given.
  OnWay start(const std::function<void()>& work, std::vector<at::Tensor> reads);
  // The same, behind these alone; for work that makes no tensors and reads none that go away.
  OnWay start_behind(std::span<const Mark> marks, const std::function<void()>& work);

 private:
  void shake(const char* where);

  std::string name_;
  std::optional<c10::Stream> stream_;
  Delays delays_;
  uint64_t drawn_ = 0;
};

}  // namespace conclave::comm
