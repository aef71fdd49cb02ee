#include "cli/rank_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace conclave::cli {
namespace {

struct Pipe {
  int read = -1, write = -1;
};

Pipe make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe", "make");
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  return {ends[0], ends[1]};
}

void close_end(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

void write_all(int fd, const char* bytes, size_t n) {
  while (n > 0) {
    const ssize_t done = ::write(fd, bytes, n);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return;  // nowhere to report a failure to
    bytes += done;
    n -= static_cast<size_t>(done);
  }
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

// This process's environment with the variables replaced.
std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> all;
  for (char** one = environ; *one; ++one) {
    const std::string text = *one;
    bool replaced = false;
    for (const auto& [name, value] : variables) replaced |= text.rfind(name + "=", 0) == 0;
    if (!replaced) all.push_back(text);
  }
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  return all;
}

// In the child: calls what a child of a process with threads may call, and no more.
[[noreturn]] void become(char* const* command, char* const* environment, pid_t parent, int in,
                         int out, int err, int report) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it ended meanwhile
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  ::fcntl(report, F_SETFD, 0);
  ::execve(command[0], command, environment);
  constexpr char kText[] = "conclave launch: cannot start the program\n";
  const ssize_t ignored = ::write(STDERR_FILENO, kText, sizeof kText - 1);
  (void)ignored;
  ::_exit(127);
}

}  // namespace

RankProcess::RankProcess(int rank, const std::vector<std::string>& command,
                         std::vector<std::pair<std::string, std::string>> variables,
                         std::string log, bool shown)
    : rank_(rank), log_(std::move(log)) {
  file_ = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) throw_errno(log_, "write");
  Pipe report = make_pipe(), out, err;
  if (shown) out = make_pipe(), err = make_pipe();
  int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  variables.emplace_back("CONCLAVE_REPORT_FD", std::to_string(report.write));
  std::vector<std::string> arguments = command, environment = environment_with(variables);
  const auto argument_pointers = pointers(arguments), variable_pointers = pointers(environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0)
    become(argument_pointers.data(), variable_pointers.data(), parent, in,
           shown ? out.write : file_, shown ? err.write : file_, report.write);
  const int failed = errno;
  close_end(in);
  close_end(report.write);
  close_end(out.write);
  close_end(err.write);
  report_ = report.read;
  out_ = out.read;
  err_ = err.read;
  if (pid_ < 0) throw RunError(format("cannot start rank %d: %s", rank, std::strerror(failed)));
  ::setpgid(pid_, pid_);  // by whichever of the two comes first
}

RankProcess::~RankProcess() {
  if (pid_ > 0 && !has_ended()) {
    kill();
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
  }
  for (int* fd : {&report_, &out_, &err_, &file_}) close_end(*fd);
}

void RankProcess::show(int& from, int to) {
  std::array<char, 1 << 16> bytes;
  while (from >= 0) {
    const ssize_t n = ::read(from, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return close_end(from);
    write_all(to, bytes.data(), static_cast<size_t>(n));
    write_all(file_, bytes.data(), static_cast<size_t>(n));
  }
}

void RankProcess::read() {
  show(out_, STDOUT_FILENO);
  show(err_, STDERR_FILENO);
  std::array<char, 1 << 14> bytes;
  while (report_ >= 0) {
    const ssize_t n = ::read(report_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return close_end(report_);
    partial_.append(bytes.data(), static_cast<size_t>(n));
    size_t begin = 0;
    for (size_t end; (end = partial_.find('\n', begin)) != std::string::npos; begin = end + 1)
      take_report(partial_.substr(begin, end - begin));
    partial_.erase(0, begin);
  }
}

void RankProcess::take_report(const std::string& line) {
  const size_t space = line.find(' ');
  if (space == std::string::npos) return;
  const std::string kind = line.substr(0, space), text = line.substr(space + 1);
  if (kind == "doing")
    doing_ = text;
  else if (!fault_ && (kind == "failed" || kind == "told"))
    fault_ = {kind == "failed", text};
}

bool RankProcess::has_ended() {
  if (ended_) return true;
  int status = 0;
  if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
  ended_ = true;
  status_ = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
  read();
  ::kill(-pid_, SIGKILL);  // what it may have started
  return true;
}

void RankProcess::signal(int number) {
  if (!ended_) ::kill(-pid_, number);
}

void RankProcess::kill() {
  if (ended_) return;
  killed_ = true;
  signal(SIGKILL);
}

std::vector<std::string> RankProcess::last_lines(size_t count) const {
  constexpr uint64_t kTail = 16 << 10;
  const MappedFile file(log_);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  std::vector<std::string> lines =
      split(text.substr(text.size() > kTail ? text.size() - kTail : 0), '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  if (lines.size() > count) lines.erase(lines.begin(), lines.end() - static_cast<long>(count));
  return lines;
}

}  // namespace conclave::cli
