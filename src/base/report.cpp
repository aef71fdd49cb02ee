#include "base/report.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <string>

namespace conclave {
namespace {

// The pipe's descriptor, or -1. A program that this rank starts does not get it.
int report_pipe() {
  const char* text = std::getenv("CONCLAVE_REPORT_FD");
  if (!text || *text < '0' || *text > '9') return -1;
  const int fd = std::atoi(text);
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return -1;
  return fd;
}

const char* word(Report kind) {
  switch (kind) {
    case Report::doing:
      return "doing ";
    case Report::failed:
      return "failed ";
    case Report::told:
      return "told ";
  }
  return "";
}

}  // namespace

void report(Report kind, std::string_view text) {
  static const int fd = report_pipe();
  if (fd < 0) return;
  std::string line = word(kind);
  line += text.substr(0, PIPE_BUF - 16);  // up to PIPE_BUF bytes are written as a whole or not
  for (char& c : line)
    if (c == '\n') c = ' ';
  line += '\n';
  const ssize_t ignored = ::write(fd, line.data(), line.size());
  (void)ignored;
}

}  // namespace conclave
