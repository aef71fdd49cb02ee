#include "base/memory.h"

#include <malloc.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace conclave {
namespace {

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();

// The files of /proc and /sys are missing on some systems; then they say nothing and no limit
// follows.
std::string content(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

uint64_t number(std::string_view text, uint64_t otherwise) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  uint64_t value = otherwise;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The number behind "NAME" at the start of a line.
uint64_t field(const std::string& text, const std::string& name, uint64_t otherwise) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(name))
      return number(std::string_view(line).substr(name.size()), otherwise);
  return otherwise;
}

// This process's cgroup of a controller and all above it, nearest first. In a container its path
// may be the host's and not exist inside; the root, which is always listed, then is the container's
// own.
std::vector<std::string> cgroups(const char* controller) {
  std::istringstream lines(content("/proc/self/cgroup"));
  std::string root = "/sys/fs/cgroup", path;
  for (std::string line;
       std::getline(lines, line);) {  // "0::/a/b" (v2) or "4:cpu,cpuacct:/a/b" (v1)
    size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string names = ',' + line.substr(first + 1, second - first - 1) + ',';
    bool v1 = names.find(',' + std::string(controller) + ',') != std::string::npos;
    if (v1) root = std::string("/sys/fs/cgroup/") + controller;
    if (v1 || (names == ",," && path.empty())) path = line.substr(second + 1);
  }
  std::vector<std::string> folders;
  for (; path.size() > 1; path.resize(path.rfind('/'))) folders.push_back(root + path);
  folders.push_back(root);
  return folders;
}

// Bytes this cgroup may still take. The page cache counts as used there, though most of it can be
// dropped.
uint64_t cgroup_room(const std::string& folder) {
  bool v2 = !content(folder + "/memory.max").empty();
  uint64_t limit = number(content(folder + (v2 ? "/memory.max" : "/memory.limit_in_bytes")),
                          kNoLimit);  // "max": none
  uint64_t used = number(content(folder + (v2 ? "/memory.current" : "/memory.usage_in_bytes")), 0);
  uint64_t cache =
      field(content(folder + "/memory.stat"), v2 ? "inactive_file " : "total_inactive_file ", 0);
  used -= std::min(used, cache);
  return limit == kNoLimit ? kNoLimit : limit - std::min(limit, used);
}

double cgroup_cores(const std::string& folder) {
  std::string v2 = content(folder + "/cpu.max");  // "200000 100000" or "max 100000"
  double quota = -1, period = 0;
  std::istringstream(v2.empty() ? content(folder + "/cpu.cfs_quota_us") + ' ' +
                                      content(folder + "/cpu.cfs_period_us")
                                : v2) >>
      quota >> period;
  return quota > 0 && period > 0 ? quota / period : std::numeric_limits<double>::infinity();
}

}  // namespace

uint64_t resident_memory() {
  std::istringstream pages(content("/proc/self/statm"));
  uint64_t total = 0, resident = 0;
  pages >> total >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

uint64_t peak_resident_memory() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

// A static object of the program is made when its libraries are loaded and initialised.
const uint64_t kAtStart = resident_memory();
uint64_t memory_at_start() { return kAtStart; }

uint64_t available_memory() {
  uint64_t room = field(content("/proc/meminfo"), "MemAvailable:", kNoLimit / 1024) * 1024;
  for (const std::string& folder : cgroups("memory")) room = std::min(room, cgroup_room(folder));
  return room;
}

void return_large_blocks() {
#ifdef __GLIBC__
  ::mallopt(M_MMAP_THRESHOLD, 4 << 20);
#endif
}

int64_t core_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  bool known =
      ::sched_getaffinity(0, sizeof set, &set) == 0;  // fails on machines of over 1024 cores
  double cores = known ? CPU_COUNT(&set) : static_cast<double>(::sysconf(_SC_NPROCESSORS_ONLN));
  for (const std::string& folder : cgroups("cpu")) cores = std::min(cores, cgroup_cores(folder));
  return std::max<int64_t>(
      1, static_cast<int64_t>(cores));  // a part of a core runs no thread of its own
}

}  // namespace conclave
