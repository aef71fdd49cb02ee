#include "base/abandon.h"

#include <exception>
#include <mutex>

#include "base/log.h"

namespace conclave {
namespace {

struct End {
  std::mutex mutex;  // kept for good by the first that abandons: the next waits for its end
  std::function<void(const std::string&)> end;
};

// Never destroyed: a thread may abandon while the process ends.
End& the_end() {
  static End* one = new End;
  return *one;
}

}  // namespace

void set_abandon(std::function<void(const std::string&)> end) {
  const std::lock_guard lock(the_end().mutex);
  the_end().end = std::move(end);
}

void abandon(const std::string& message) {
  the_end().mutex.lock();
  if (the_end().end)
    the_end().end(message);
  else
    log_warn(message);
  std::terminate();
}

}  // namespace conclave
