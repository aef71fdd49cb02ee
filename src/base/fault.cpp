#include "base/fault.h"

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace conclave {

void fault_point(const char* name) {
  static std::atomic<long long> passages{0};  // of the point that is named
  const char* text = std::getenv("CONCLAVE_KILL_AT");
  size_t length = std::strlen(name);
  if (!text || std::strncmp(text, name, length) != 0) return;
  if (text[length] != '\0' && text[length] != ':') return;  // another, longer name
  long long wanted = 1;
  if (text[length] == ':') {
    char* end = nullptr;
    wanted = std::strtoll(text + length + 1, &end, 10);
    if (*end != '\0' || wanted < 1)
      throw std::logic_error(std::string("CONCLAVE_KILL_AT: expected NAME or NAME:N, got ") + text);
  }
  if (++passages == wanted) std::raise(SIGKILL);
}

}  // namespace conclave
