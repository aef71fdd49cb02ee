#include "base/progress.h"

#include <algorithm>

#include "base/human.h"
#include "base/log.h"
#include "base/terminal.h"
#include "base/text.h"

namespace conclave {
namespace {

constexpr double kRedraw = 0.1;      // seconds between two drawings on a terminal
constexpr double kNotWorthIt = 1.0;  // a step that ends sooner shows nothing

}  // namespace

StatusLine::StatusLine(double plain_every) : every_(plain_every) {}

StatusLine::~StatusLine() {
  if (since_) terminal_status("");
}

bool StatusLine::due_locked() const {
  return !since_ ||
         since_->seconds() >= (stderr_is_terminal() ? std::min(kRedraw, every_) : every_);
}

bool StatusLine::due() const {
  std::lock_guard lock(mutex_);
  return due_locked();
}

void StatusLine::show(const std::string& text) {
  std::lock_guard lock(mutex_);
  if (!due_locked() || log_is_quiet()) return;
  since_.emplace();
  if (stderr_is_terminal())
    terminal_status(text);
  else
    log_info(text);
}

void StatusLine::finish(const std::string& text) {
  std::lock_guard lock(mutex_);
  terminal_status("");
  since_.reset();
  log_info(text);
}

Progress::Progress(std::string what, uint64_t total, Unit unit, double plain_every)
    : what_(std::move(what)), total_(total), unit_(unit), line_(plain_every) {}

Progress::~Progress() = default;

void Progress::add(uint64_t done) {
  std::lock_guard lock(mutex_);
  done_ += done;
  if (timer_.seconds() < kNotWorthIt || !line_.due()) return;
  shown_ = true;
  line_.show(text());
}

std::string Progress::text() const {
  auto amount = [&](double n) { return unit_ == Unit::bytes ? human_bytes(n) : human_count(n); };
  double done = static_cast<double>(done_), total = static_cast<double>(total_);
  double rate = done / std::max(timer_.seconds(), 1e-9);
  std::string out = what_;
  if (total_ > 0) out += format("  %d %%", static_cast<int>(100 * std::min(done / total, 1.0)));
  out += "  " + amount(done);
  if (total_ > 0) out += " of " + amount(total);
  out += "  " + amount(rate) + "/s";
  if (total_ > 0)
    out += "  " + human_duration(std::max(total - done, 0.0) / std::max(rate, 1e-9)) + " left";
  return out;
}

void Progress::finish() {
  std::lock_guard lock(mutex_);
  if (!shown_) return;
  std::string done = unit_ == Unit::bytes ? human_bytes(static_cast<double>(done_))
                                          : human_count(static_cast<double>(done_));
  line_.finish(what_ + ": " + done + " in " + human_duration(timer_.seconds()));
}

}  // namespace conclave
