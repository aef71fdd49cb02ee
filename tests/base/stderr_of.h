// What a function writes to stderr, run in a process of its own whose stderr is a pipe or a
// terminal of 40 columns.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <stdexcept>
#include <string>

// First line of a test that looks at a terminal: a chroot may have none.
#define CONCLAVE_NEEDS_TERMINAL() \
  if (!has_terminals()) GTEST_SKIP() << "there are no pseudo-terminals here (/dev/pts)"

namespace conclave {

inline bool has_terminals() {
  const int end = ::posix_openpt(O_RDWR | O_NOCTTY);
  const bool has = end >= 0 && ::grantpt(end) == 0 && ::unlockpt(end) == 0;
  if (end >= 0) ::close(end);
  return has;
}

struct Ended {
  std::string text;
  int status;  // of waitpid
};

inline Ended run_apart(bool terminal, const std::function<void()>& body) {
  int read_end = -1, write_end = -1;
  if (terminal) {
    read_end = ::posix_openpt(O_RDWR | O_NOCTTY);
    if (read_end < 0 || ::grantpt(read_end) != 0 || ::unlockpt(read_end) != 0)
      throw std::runtime_error("no pseudo-terminal");
    write_end = ::open(::ptsname(read_end), O_RDWR | O_NOCTTY);
    winsize size{24, 40, 0, 0};
    ::ioctl(write_end, TIOCSWINSZ, &size);
  } else {
    int ends[2];
    if (::pipe(ends) != 0) throw std::runtime_error("no pipe");
    read_end = ends[0];
    write_end = ends[1];
  }
  pid_t child = ::fork();
  if (child == 0) {
    ::setenv("TERM", "xterm", 1);
    ::dup2(write_end, STDERR_FILENO);
    ::close(write_end);
    ::close(read_end);
    body();
    ::_exit(0);
  }
  ::close(write_end);
  Ended ended;
  char buffer[4096];
  for (ssize_t got;
       (got = ::read(read_end, buffer, sizeof buffer)) > 0;)  // a terminal ends with EIO
    ended.text.append(buffer, static_cast<size_t>(got));
  ::close(read_end);
  ::waitpid(child, &ended.status, 0);
  return ended;
}

inline std::string stderr_of(bool terminal, const std::function<void()>& body) {
  return run_apart(terminal, body).text;
}

}  // namespace conclave
