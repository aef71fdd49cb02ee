// Which part of a step runs, for the table of time by part. `Part part("attention");` names what
// happens while it lives, until another one inside it; who listens hears each change. When nobody
// does, a Part costs two loads and a branch.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/timer.h"

namespace conclave {

class PartObserver {
 public:
  virtual ~PartObserver() = default;
  virtual void enter(const char* part) = 0;  // what follows belongs to this part; null: to none
};

// Of the calling thread; null: nobody.
void observe_parts(PartObserver* observer);

class Part {
 public:
  enum class Inner { named, swallowed };  // whether parts inside count under their own names
  // `name` lives forever (a literal); null changes nothing.
  explicit Part(const char* name, Inner inner = Inner::named);
  ~Part();
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;

  // Of the innermost living one; null: none. With it work that is left for later (a backward) can
  // be counted where it belongs.
  static const char* current();

 private:
  const char* before_;
  bool swallowed_before_;
};

// Adds up seconds of the steady clock by part.
class PartTimer final : public PartObserver {
 public:
  PartTimer() { observe_parts(this); }
  ~PartTimer() override { observe_parts(nullptr); }
  void enter(const char* part) override;
  // Name and seconds, in the order in which parts came first; "" is what was in no part. The time
  // since the last change counts.
  std::vector<std::pair<std::string, double>> seconds();
  void clear();

 private:
  Timer timer_;
  std::string running_;
  std::vector<std::string> order_;
  std::map<std::string, double> seconds_;
};

// Notes when each part ran, for a viewer of traces.
class PartTrace final : public PartObserver {
 public:
  PartTrace() { observe_parts(this); }
  ~PartTrace() override { observe_parts(nullptr); }
  void enter(const char* part) override;
  // Up to now, as JSON that Perfetto and chrome://tracing open.
  std::string json() const;

 private:
  struct Event {
    const char* part;
    double begin;  // seconds since the start
  };
  Timer timer_;
  std::vector<Event> events_;
};

}  // namespace conclave
