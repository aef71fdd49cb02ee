#include "base/fault.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>

#include "base/log.h"

namespace conclave {
namespace {

// The number that `variable` gives for the point `name`: NAME:N, or 1 for NAME; 0 where it is for
// another point or another rank.
long long number_for(const char* variable, const char* name) {
  const char* text = std::getenv(variable);
  const size_t length = std::strlen(name);
  if (!text || std::strncmp(text, name, length) != 0) return 0;
  if (text[length] != '\0' && text[length] != ':') return 0;  // another, longer name
  if (const char* rank = std::getenv("CONCLAVE_FAULT_RANK");
      rank && std::to_string(log_rank()) != rank)
    return 0;
  if (text[length] == '\0') return 1;
  char* end = nullptr;
  const long long number = std::strtoll(text + length + 1, &end, 10);
  if (*end != '\0' || number < 1)
    throw std::logic_error(std::string(variable) + ": expected NAME or NAME:N, got " + text);
  return number;
}

// Whether this is the passage that `variable` names; `passages` counts those of its point.
bool is_due(const char* variable, const char* name, std::atomic<long long>& passages) {
  const long long wanted = number_for(variable, name);
  return wanted > 0 && ++passages == wanted;
}

}  // namespace

void fault_point(const char* name) {
  static std::atomic<long long> kill_passages{0}, hang_passages{0};
  if (is_due("CONCLAVE_KILL_AT", name, kill_passages)) std::raise(SIGKILL);
  if (is_due("CONCLAVE_HANG_AT", name, hang_passages))
    for (;;) ::pause();
  if (const long long delay = number_for("CONCLAVE_DELAY_AT", name); delay > 0)
    std::this_thread::sleep_for(std::chrono::milliseconds(delay));
}

bool nan_point(const char* name) {
  static std::atomic<long long> at_passages{0}, from_passages{0};
  const long long from = number_for("CONCLAVE_NAN_FROM", name);
  return is_due("CONCLAVE_NAN_AT", name, at_passages) || (from > 0 && ++from_passages >= from);
}

}  // namespace conclave
