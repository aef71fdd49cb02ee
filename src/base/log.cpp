#include "base/log.h"

#include <atomic>
#include <stdexcept>

#include "base/terminal.h"

namespace conclave {
namespace {

std::atomic<int64_t> rank_of_lines{-1};
std::atomic<bool> quiet{false};

std::string prefix() {
  const int64_t rank = rank_of_lines;
  return rank < 0 ? "" : "[rank " + std::to_string(rank) + "] ";
}

}  // namespace

void log_info(const std::string& message) {
  if (!quiet) terminal_line(prefix() + message);
}

void log_warn(const std::string& message) {
  bool colour = stderr_has_colour();
  terminal_line(prefix() + (colour ? "\x1b[33mwarning:\x1b[0m " : "warning: ") + message);
}

void set_log_rank(int64_t rank) {
  int64_t none = -1;
  if (!rank_of_lines.compare_exchange_strong(none, rank) && none != rank)
    throw std::logic_error("set_log_rank: the rank is already " + std::to_string(none));
}

int64_t log_rank() { return rank_of_lines; }

void set_log_quiet() { quiet = true; }

bool log_is_quiet() { return quiet; }

}  // namespace conclave
