#include "base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace conclave {
namespace {

constexpr const char* kClearLine = "\r\x1b[K";

struct Terminal {
  std::mutex mutex;
  std::string status;  // what stands on the last line now
};

// Never destroyed: threads may still log while the process ends.
Terminal& terminal() {
  static Terminal* one = new Terminal;
  return *one;
}

void write_all(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);  // nowhere to report a failure to
  std::fflush(stderr);
}

size_t columns() {
  winsize size{};
  bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  return text;
}

// The first `width` characters of UTF-8 text.
std::string cut(const std::string& text, size_t width) {
  size_t characters = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if ((text[i] & 0xC0) != 0x80 && ++characters > width) return text.substr(0, i);
  return text;
}

}  // namespace

bool stderr_is_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && term && std::strcmp(term, "dumb") != 0;
}

bool stderr_has_colour() {
  const char* no_colour = std::getenv("NO_COLOR");
  return stderr_is_terminal() && !(no_colour && *no_colour);
}

void terminal_line(const std::string& line) {
  Terminal& t = terminal();
  std::lock_guard lock(t.mutex);
  if (t.status.empty())
    write_all(one_line(line) + '\n');
  else
    write_all(kClearLine + one_line(line) + '\n' + t.status);
}

void terminal_status(const std::string& status) {
  if (!stderr_is_terminal()) return;
  Terminal& t = terminal();
  std::lock_guard lock(t.mutex);
  std::string shown =
      cut(one_line(status), columns() - 1);  // in the last column some terminals wrap
  if (shown.empty() && t.status.empty()) return;
  write_all(kClearLine + shown);
  t.status = shown;
}

}  // namespace conclave
