#include "comm/call_times.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <utility>
#include <vector>

#include "base/timer.h"

namespace conclave::comm {
namespace {

c10::Event now(at::Device device) {
  c10::Event event(device.type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  return event;
}

class Timed final : public Comm {
 public:
  Timed(std::unique_ptr<Comm> real, CallTimes& times) : real_(std::move(real)), times_(times) {}
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }

  void all_gather(at::Tensor out, const at::Tensor& in) override {
    time(in.device(), [&] { real_->all_gather(out, in); });
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    time(in.device(), [&] { real_->reduce_scatter(out, in); });
  }
  void all_reduce(at::Tensor x) override {
    time(x.device(), [&] { real_->all_reduce(x); });
  }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    time(in.device(), [&] { real_->all_to_all(out, in, receive_rows, send_rows); });
  }
  void barrier() override {
    time(at::kCPU, [&] { real_->barrier(); });
  }

 private:
  template <class Call>
  void time(at::Device device, const Call& call) {
    times_.begin(device);
    call();
    times_.end(device);
  }
  const std::unique_ptr<Comm> real_;
  CallTimes& times_;
};

}  // namespace

struct CallTimes::Calls {
  Timer since;                                         // the call under way began
  double seconds = 0;                                  // of those on the CPU
  std::vector<std::pair<c10::Event, c10::Event>> gpu;  // begin and end of each
};

double CallTimes::Round::seconds() const {
  double sum = calls_->seconds;
  for (const auto& [begin, end] : calls_->gpu) {
    end.synchronize();
    sum += begin.elapsedTime(end) / 1000;
  }
  return sum;
}

CallTimes::CallTimes() : calls_(std::make_shared<Calls>()) {}

void CallTimes::open() { calls_ = std::make_shared<Calls>(); }

CallTimes::Round CallTimes::close() {
  Round round;
  round.calls_ = std::exchange(calls_, std::make_shared<Calls>());
  return round;
}

void CallTimes::begin(at::Device device) {
  if (device.is_cpu())
    calls_->since.restart();
  else
    calls_->gpu.emplace_back(now(device), c10::Event(device.type()));
}

void CallTimes::end(at::Device device) {
  if (device.is_cpu())
    calls_->seconds += calls_->since.seconds();
  else
    calls_->gpu.back().second = now(device);
}

std::unique_ptr<Comm> TimedFactory::make(const std::vector<int>& ranks, const std::string& name) {
  return std::make_unique<Timed>(real_.make(ranks, name), times_);
}

}  // namespace conclave::comm
