// One rank that `conclave launch` has started.
#pragma once
#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace conclave::cli {

class RankProcess {
 public:
  // Starts `command` with these variables besides this process's. Its output goes to `log`, and to
  // this process's stdout and stderr too if `shown`. It gets a process group of its own, and
  // SIGKILL when this thread ends.
  RankProcess(int rank, const std::vector<std::string>& command,
              std::vector<std::pair<std::string, std::string>> variables, std::string log,
              bool shown);
  ~RankProcess();  // kills it if it still runs
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  // The descriptors to wait on; -1 where one is closed.
  std::vector<int> descriptors() const { return {report_, out_, err_}; }
  // Takes what has come on them, without waiting.
  void read();
  // Whether it has ended; looks without waiting.
  bool has_ended();
  void signal(int number);  // to it and what it started
  void kill();              // SIGKILL, by us

  int rank() const { return rank_; }
  pid_t pid() const { return pid_; }
  const std::string& log() const { return log_; }
  // After its end: exit status, or minus the signal that killed it.
  int status() const { return status_; }
  bool was_killed_by_us() const { return killed_; }
  const std::string& doing() const { return doing_; }  // its last operation
  // What it told of its end: by itself (true) or because of another rank (false).
  const std::optional<std::pair<bool, std::string>>& fault() const { return fault_; }
  std::vector<std::string> last_lines(size_t count) const;  // of its log

 private:
  void take_report(const std::string& line);
  void show(int& from, int to);

  const int rank_;
  const std::string log_;
  pid_t pid_ = -1;
  int report_ = -1, out_ = -1, err_ = -1, file_ = -1;
  bool ended_ = false, killed_ = false;
  int status_ = 0;
  std::string partial_;  // a line of the report that is not whole yet
  std::string doing_;
  std::optional<std::pair<bool, std::string>> fault_;
};

}  // namespace conclave::cli
