#include "comm/lane.h"

#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/log.h"
#include "base/random.h"
#include "ops/delay.h"

namespace conclave::comm {

Mark Mark::here(at::Device device) {
  Mark mark;
  if (!device.is_cuda()) return mark;
  auto event = std::make_shared<c10::Event>(device.type());
  event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  mark.event_ = std::move(event);
  return mark;
}

void Mark::wait() const {
  if (!event_) return;
  event_->block(c10::impl::VirtualGuardImpl(event_->device_type()).getStream(event_->device()));
}

void OnWay::wait() {
  done_.wait();
  *this = {};
}

Delays delays_from_environment() {
  const char* text = std::getenv("CONCLAVE_DELAYS");
  if (!text || !*text) return {};
  Delays d;
  const char* end = text + std::strlen(text);
  const auto [colon, seed] = std::from_chars(text, end, d.seed);
  const bool more = seed == std::errc{} && colon != end && *colon == ':';
  const auto [rest, longest] = std::from_chars(more ? colon + 1 : end, end, d.microseconds);
  if (!more || longest != std::errc{} || rest != end || d.microseconds < 0)
    throw ConfigError("CONCLAVE_DELAYS: expected SEED:MICROSECONDS, as 1:200, got `" +
                      std::string(text) + "`");
  return d;
}

void Lane::open(std::string name, at::Device device, Delays delays) {
  if (!device.is_cuda()) return;
  name_ = std::move(name);
  delays_ = delays;
  stream_ = c10::impl::VirtualGuardImpl(device.type())
                .getStreamFromGlobalPool(device, /*isHighPriority=*/true);
}

OnWay Lane::start(const std::function<void()>& work, std::vector<at::Tensor> reads) {
  if (!stream_) {
    work();
    return {};
  }
  const Mark now = Mark::here(stream_->device());
  OnWay out = start_behind({&now, 1}, work);
  out.reads_ = std::move(reads);
  return out;
}

OnWay Lane::start_behind(std::span<const Mark> marks, const std::function<void()>& work) {
  OnWay out;
  if (!stream_) {
    work();
    return out;
  }
  {
    const c10::StreamGuard guard(*stream_);
    for (const Mark& mark : marks) mark.wait();
    shake("before");
    work();
    shake("after");
    out.done_ = Mark::here(stream_->device());
  }
  shake("beside");
  return out;
}

void Lane::shake(const char* where) {
  if (delays_.microseconds == 0) return;
  const uint64_t rank = static_cast<uint64_t>(log_rank() + 1);
  const double u = uniform(delays_.seed, hash_name(name_ + where) + rank, drawn_++);
  if (u < 0.5) return;
  ops::delay(stream_->device(),
             static_cast<int64_t>((2 * u - 1) * static_cast<double>(delays_.microseconds)));
}

}  // namespace conclave::comm
