#include "base/parts.h"

#include "base/text.h"

namespace conclave {
namespace {

struct Now {
  PartObserver* observer = nullptr;
  const char* part = nullptr;
  bool swallowed = false;
};
thread_local Now now;

void change_to(const char* part) {
  if (part == now.part) return;
  now.part = part;
  if (now.observer) now.observer->enter(part);
}

}  // namespace

void observe_parts(PartObserver* observer) { now.observer = observer; }

Part::Part(const char* name, Inner inner) : before_(now.part), swallowed_before_(now.swallowed) {
  if (!name || now.swallowed) return;
  now.swallowed = inner == Inner::swallowed;
  change_to(name);
}

Part::~Part() {
  now.swallowed = swallowed_before_;
  change_to(before_);
}

const char* Part::current() { return now.part; }

void PartTimer::enter(const char* part) {
  const double elapsed = timer_.restart();
  auto [at, first] = seconds_.try_emplace(running_, 0.0);
  if (first) order_.push_back(running_);
  at->second += elapsed;
  running_ = part ? part : "";
}

std::vector<std::pair<std::string, double>> PartTimer::seconds() {
  enter(now.part);
  std::vector<std::pair<std::string, double>> out;
  for (const auto& name : order_) out.emplace_back(name, seconds_.at(name));
  return out;
}

void PartTrace::enter(const char* part) { events_.push_back({part, timer_.seconds()}); }

std::string PartTrace::json() const {
  std::string text = "[";
  for (size_t i = 0; i < events_.size(); ++i) {
    if (!events_[i].part) continue;
    const double end = i + 1 < events_.size() ? events_[i + 1].begin : timer_.seconds();
    text += format(
        "%s\n{\"name\": \"%s\", \"ph\": \"X\", \"ts\": %.3f, \"dur\": %.3f, \"pid\": 0, "
        "\"tid\": 0}",
        text.size() > 1 ? "," : "", events_[i].part, 1e6 * events_[i].begin,
        1e6 * (end - events_[i].begin));
  }
  return text + "\n]\n";
}

void PartTimer::clear() {
  seconds_.clear();
  order_.clear();
  timer_.restart();
}

}  // namespace conclave
