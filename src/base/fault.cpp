#include "base/fault.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "base/log.h"

namespace conclave {
namespace {

// Whether this is the passage that `variable` names; `passages` counts those of its point.
bool is_due(const char* variable, const char* name, std::atomic<long long>& passages) {
  const char* text = std::getenv(variable);
  const size_t length = std::strlen(name);
  if (!text || std::strncmp(text, name, length) != 0) return false;
  if (text[length] != '\0' && text[length] != ':') return false;  // another, longer name
  if (const char* rank = std::getenv("CONCLAVE_FAULT_RANK");
      rank && std::to_string(log_rank()) != rank)
    return false;
  long long wanted = 1;
  if (text[length] == ':') {
    char* end = nullptr;
    wanted = std::strtoll(text + length + 1, &end, 10);
    if (*end != '\0' || wanted < 1)
      throw std::logic_error(std::string(variable) + ": expected NAME or NAME:N, got " + text);
  }
  return ++passages == wanted;
}

}  // namespace

void fault_point(const char* name) {
  static std::atomic<long long> kill_passages{0}, hang_passages{0};
  if (is_due("CONCLAVE_KILL_AT", name, kill_passages)) std::raise(SIGKILL);
  if (is_due("CONCLAVE_HANG_AT", name, hang_passages))
    for (;;) ::pause();
}

}  // namespace conclave
