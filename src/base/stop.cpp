#include "base/stop.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <string_view>

#include "base/terminal.h"

namespace conclave {
namespace {

constexpr std::string_view kLine =
    "stopping: finishing this step, then saving; once more stops at once\n";
constexpr std::string_view kLineOnTerminal =
    "\r\x1b[Kstopping: finishing this step, then saving; once more stops at once\n";

std::atomic<bool> stop{false};
std::atomic<bool> counted{false};  // a SIGINT or SIGTERM was seen
std::atomic<bool> on_terminal{false};
static_assert(std::atomic<bool>::is_always_lock_free,
              "the handler may only touch lock-free atomics");

// Calls nothing but what POSIX allows in a handler.
void handle(int number) {
  int saved_errno = errno;
  if (number != SIGUSR1 && counted.exchange(true)) {
    std::signal(number, SIG_DFL);
    std::raise(number);  // delivered when this handler returns
  } else if (!stop.exchange(true)) {
    std::string_view line = on_terminal ? kLineOnTerminal : kLine;
    ssize_t ignored = ::write(STDERR_FILENO, line.data(), line.size());
    (void)ignored;
  }
  errno = saved_errno;
}

}  // namespace

void install_stop_handlers() {
  on_terminal = stderr_is_terminal();
  struct sigaction action = {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(number, &action, nullptr);
}

bool stop_requested() { return stop; }

void request_stop() { stop = true; }

void clear_stop() {
  stop = false;
  counted = false;
}

}  // namespace conclave
