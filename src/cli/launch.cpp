#include "cli/launch.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "base/timer.h"
#include "cli/rank_process.h"
#include "recipes/ranks.h"

namespace conclave::cli {
namespace {

// Seconds: how long the others have to say what they know when one has died, and before that how
// long they have to find out in a call, which tells more; and how long ranks have to end after a
// second Ctrl-C.
constexpr double kGrace = 5, kFind = 2, kAtOnce = 2;
constexpr size_t kLastLines = 12;

std::array<std::atomic<int>, 65> asked;  // how often each signal has come
void count_signal(int number) { ++asked[static_cast<size_t>(number)]; }

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "this host";
}

std::string folder_of_logs(const LaunchOptions& o) {
  if (!o.logs.empty()) return o.logs;
  char text[32] = {};
  const std::time_t now = std::time(nullptr);
  std::strftime(text, sizeof text, "%Y%m%d-%H%M%S", std::localtime(&now));
  return ".cache/launch/" + std::string(text) + "-" + std::to_string(::getpid());
}

std::string this_program() {
  std::array<char, 4096> path{};
  const ssize_t n = ::readlink("/proc/self/exe", path.data(), path.size() - 1);
  if (n <= 0) throw_errno("/proc/self/exe", "read");
  return std::string(path.data(), static_cast<size_t>(n));
}

std::string how_it_ended(const RankProcess& r) {
  if (r.status() >= 0) return format("ended with status %d", r.status());
  return format("was killed by signal %d (%s)", -r.status(), ::strsignal(-r.status()));
}

class Launch {
 public:
  explicit Launch(const LaunchOptions& o) : logs_(folder_of_logs(o)), host_(host_name()) {
    make_folder(logs_);
    std::vector<std::string> command{o.binary.empty() ? this_program() : o.binary};
    command.insert(command.end(), o.arguments.begin(), o.arguments.end());
    for (int rank = 0; rank < o.ranks; ++rank) {
      std::vector<std::pair<std::string, std::string>> variables{
          {"RANK", std::to_string(rank)},
          {"WORLD_SIZE", std::to_string(o.ranks)},
          {"LOCAL_RANK", std::to_string(rank)},
          {"LOCAL_WORLD_SIZE", std::to_string(o.ranks)},
          {"MASTER_ADDR", "127.0.0.1"},
          {"MASTER_PORT", std::to_string(store_.port())},
          {"TORCHELASTIC_USE_AGENT_STORE", "True"},
          {"TORCHELASTIC_RESTART_COUNT", "0"},
          {"CONCLAVE_LAUNCHER", "conclave launch"}};
      if (o.timeout > 0) variables.emplace_back("CONCLAVE_TIMEOUT", shortest(o.timeout));
      ranks_.push_back(std::make_unique<RankProcess>(rank, command, std::move(variables),
                                                     format("%s/rank-%d.log", logs_.c_str(), rank),
                                                     /*shown=*/rank == 0));
    }
  }

  int run() {
    while (running() > 0) {
      wait();
      pass_signals_on();
      for (auto& rank : ranks_)
        if (rank->has_ended() && is_bad(*rank) && !first_death_) {
          first_death_.emplace();
          first_dead_ = format("rank %d ", rank->rank()) + how_it_ended(*rank);
          store_.tell_gone(rank->rank(), "it " + how_it_ended(*rank));
        }
      if (first_death_ && first_death_->seconds() > kFind && !first_dead_.empty())
        store_.tell_all(std::exchange(first_dead_, {}));
      const bool late = first_death_ && first_death_->seconds() > kGrace;
      const bool at_once = second_signal_ && second_signal_->seconds() > kAtOnce;
      if (late || at_once)
        for (auto& rank : ranks_) rank->kill();
    }
    return verdict();
  }

 private:
  // A rank that was stopped before it could finish a step and save ends by that signal.
  bool was_stopped(const RankProcess& r) const {
    return stops_ > 0 && (r.status() == -SIGINT || r.status() == -SIGTERM);
  }
  bool is_bad(const RankProcess& r) const {
    return r.status() != 0 && r.status() != 75 && !was_stopped(r);
  }

  size_t running() {
    size_t n = 0;
    for (auto& rank : ranks_) n += !rank->has_ended();
    return n;
  }

  // Until something was written or a tenth of a second has passed.
  void wait() {
    std::vector<pollfd> all;
    for (const auto& rank : ranks_)
      for (int fd : rank->descriptors())
        if (fd >= 0) all.push_back({.fd = fd, .events = POLLIN});
    if (::poll(all.data(), all.size(), 100) < 0 && errno != EINTR) throw_errno("ranks", "poll");
    for (auto& rank : ranks_) rank->read();
  }

  void pass_signals_on() {
    for (int number : {SIGINT, SIGTERM, SIGUSR1}) {
      int& passed = passed_[static_cast<size_t>(number)];
      for (; passed < asked[static_cast<size_t>(number)]; ++passed) {
        for (auto& rank : ranks_) rank->signal(number);
        if (number != SIGUSR1 && ++stops_ == 2) second_signal_.emplace();
      }
    }
  }

  // Whom to blame: one that a signal killed, else one that failed by itself, else one that knows
  // another which did not end, else any that ended badly.
  const RankProcess* culprit() const {
    const auto find = [&](auto is) -> const RankProcess* {
      for (const auto& rank : ranks_)
        if (is_bad(*rank) && is(*rank)) return rank.get();
      return nullptr;
    };
    using R = const RankProcess&;
    if (auto* r = find([](R r) { return r.status() < 0 && !r.was_killed_by_us(); })) return r;
    if (auto* r = find([](R r) { return r.fault() && r.fault()->first; })) return r;
    if (auto* r = find([](R r) { return !r.fault() && !r.was_killed_by_us(); })) return r;
    if (auto* r = find([](R r) { return r.fault().has_value(); })) return r;
    return find([](R) { return true; });
  }

  int verdict() {
    const RankProcess* r = culprit();
    if (!r) {
      bool stopped = false, at_once = false;
      for (const auto& rank : ranks_) {
        stopped |= rank->status() == 75;
        at_once |= was_stopped(*rank);
      }
      if (at_once) std::fputs("conclave launch: stopped without saving\n", stderr);
      return at_once ? 1 : stopped ? 75 : 0;
    }
    std::string text =
        format("rank %d on %s (pid %d) ", r->rank(), host_.c_str(), static_cast<int>(r->pid()));
    text += how_it_ended(*r);
    if (r->fault()) text += ": " + r->fault()->second;
    if (!r->doing().empty()) text += "; its last operation: " + r->doing();
    std::vector<std::string> killed;
    for (const auto& rank : ranks_)
      if (rank->was_killed_by_us())
        killed.push_back(std::to_string(rank->rank()) +
                         (rank->doing().empty() ? "" : " (in " + rank->doing() + ")"));
    if (!killed.empty())
      text += "; killed, since they did not end by themselves: ranks " + join(killed, ", ");
    std::fprintf(stderr, "conclave launch: %s\n", text.c_str());
    std::fprintf(stderr, "its last lines, of %s:\n", r->log().c_str());
    for (const std::string& line : r->last_lines(kLastLines))
      std::fprintf(stderr, "  %s\n", line.c_str());
    return r->status() == 2 ? 2 : 1;
  }

  recipes::LaunchStore store_;
  const std::string logs_, host_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::optional<Timer> first_death_, second_signal_;
  std::string first_dead_;  // as the others are told, until they are
  std::array<int, 65> passed_{};
  int stops_ = 0;
};

}  // namespace

int launch(const LaunchOptions& options) {
  if (options.arguments.empty() && options.binary.empty())
    throw ConfigError("launch: expected a verb, as in conclave launch -n 2 pretrain CONFIG.yaml");
  struct sigaction action = {};
  action.sa_handler = count_signal;
  sigemptyset(&action.sa_mask);
  for (int number : {SIGINT, SIGTERM, SIGUSR1}) ::sigaction(number, &action, nullptr);
  Launch one(options);
  return one.run();
}

}  // namespace conclave::cli
