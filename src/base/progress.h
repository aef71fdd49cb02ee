// What a long step shows: on a terminal one line that rewrites itself, elsewhere a plain line now
// and then.
#pragma once
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "base/timer.h"

namespace conclave {

// A line of free text, for the training loop. show() may be called as often as one likes: a
// terminal is redrawn at most ten times a second, plain lines come at most every `plain_every`
// seconds (the first at once). Thread-safe.
class StatusLine {
 public:
  explicit StatusLine(double plain_every = 10);
  ~StatusLine();  // removes the line from a terminal
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;
  void show(const std::string& text);
  bool due() const;                      // whether show() would write now: spares making the text
  void finish(const std::string& text);  // replaces the status line by this last plain line

 private:
  bool due_locked() const;
  mutable std::mutex mutex_;
  double every_;
  std::optional<Timer> since_;
};

// A step with a known total (0: not known): "reading text  45 %  1.2 GiB of 2.7 GiB  310 MiB/s
// 0:00:05 left". Nothing is shown for a step that ends within a second. Thread-safe.
class Progress {
 public:
  enum class Unit { bytes, count };
  Progress(std::string what, uint64_t total, Unit unit = Unit::count, double plain_every = 10);
  ~Progress();
  void add(uint64_t done);
  void finish();  // "reading text: 2.7 GiB in 0:00:09", if anything was shown

 private:
  std::string text() const;
  std::string what_;
  uint64_t total_;
  Unit unit_;
  std::mutex mutex_;
  uint64_t done_ = 0;
  bool shown_ = false;
  Timer timer_;
  StatusLine line_;
};

}  // namespace conclave
