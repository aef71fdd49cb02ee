#include "comm/watch.h"

#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/abandon.h"
#include "base/log.h"
#include "base/report.h"
#include "base/text.h"

namespace conclave::comm {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{100};
constexpr int kLooksABeat = 5;
// A rank that runs beats within this time, also on a machine with too much to do.
constexpr milliseconds kBeatOfTheLiving{4000};
constexpr double kReaders = 3;  // seconds that a fault stays to be read
// The main thread, having said what went wrong, is given this long to end the process.
constexpr int kLooksToEnd = 100;

bool all_beat(const std::vector<RankState>& before, const std::vector<RankState>& now) {
  for (size_t r = 0; r < now.size(); ++r)
    if (now[r].beat == before[r].beat && now[r].left.empty()) return false;
  return true;
}

std::string key_of_state(int rank) { return "state/" + std::to_string(rank); }

}  // namespace

std::string gone_text(int rank, const std::string& how) {
  return nlohmann::json{{"rank", rank}, {"how", how}}.dump();
}

std::string fault_text(int rank, const std::string& message, bool in_call) {
  return nlohmann::json{{"rank", rank}, {"message", message}, {"in_call", in_call}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "?";
}

Watch::Watch(const Place& place, std::unique_ptr<Store> store, const CallLog& log)
    : place_(place), host_(host_name()), log_(log), store_(std::move(store)) {
  beat();
  thread_ = std::thread([this] { run(); });
}

Watch::~Watch() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watch::run() {
  int failing = 0;
  for (int look = 1;; ++look) {
    {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, kLook, [&] { return stop_; })) return;
      if (failing_) {
        if (++failing == kLooksToEnd)
          abandon(message_.empty() ? "the rank has failed and does not come to its end" : message_);
        continue;
      }
      for (const auto& [group, f] : looks_)
        if (const std::string wrong = f(); !wrong.empty() && !failing_.exchange(true))
          end_process(describe(group, wrong));
    }
    if (look % kLooksABeat != 0) continue;
    try {
      beat();
      std::optional<std::string> fault;
      {
        const std::lock_guard lock(store_mutex_);
        fault = store_->peek(kFaultKey);
      }
      if (!fault || failing_.exchange(true)) continue;
      const auto j = nlohmann::json::parse(*fault);
      if (j.at("in_call").get<bool>()) write_last_calls();
      end_process(heard({j.at("rank"), j.at("message"), j.at("in_call")}));
    } catch (const std::exception& e) {
      if (!failing_.exchange(true)) end_process(e.what());
    }
  }
}

void Watch::end_process(const std::string& message) {
  report(Report::told, message);
  wait_for_readers();
  abandon(message);
}

RankState Watch::state() const {
  RankState s{.rank = place_.rank,
              .host = host_,
              .pid = static_cast<int64_t>(::getpid()),
              .beat = beat_,
              .left = left_};
  log_.fill(s);
  return s;
}

void Watch::beat() {
  const std::lock_guard lock(store_mutex_);
  ++beat_;
  store_->set(key_of_state(place_.rank), to_text(state()));
}

void Watch::look_after(int group, std::function<std::string()> look) {
  const std::lock_guard lock(mutex_);
  looks_[group] = std::move(look);
}

void Watch::forget(int group) {
  const std::lock_guard lock(mutex_);
  looks_.erase(group);
}

std::vector<RankState> Watch::all_states() {
  std::vector<RankState> all;
  for (int r = 0; r < place_.world; ++r) {
    const auto text = store_->peek(key_of_state(r));
    all.push_back(text ? rank_state(*text) : RankState{.rank = r});
  }
  if (const auto text = store_->peek(kGoneKey)) {
    const auto gone = nlohmann::json::parse(*text);
    RankState& state = all.at(gone.at("rank"));
    if (state.left.empty()) state.left = gone.at("how");
  }
  return all;
}

Watch::Fault Watch::tell(const std::string& message, bool in_call) {
  const std::lock_guard lock(store_mutex_);
  const auto stands =
      nlohmann::json::parse(store_->offer(kFaultKey, fault_text(place_.rank, message, in_call)));
  return {stands.at("rank"), stands.at("message"), stands.at("in_call")};
}

std::string Watch::heard(const Fault& fault) const {
  if (fault.rank == place_.rank || fault.rank < 0) return fault.message;
  return fault.message + " (found by rank " + std::to_string(fault.rank) + ")";
}

void Watch::write_last_calls() const {
  const auto lines = log_.lines();
  log_warn(format("the last %zu calls of this rank:", lines.size()));
  for (const std::string& line : lines) log_warn(line);
}

// The last calls to the log, and one line: what another rank found, or what this one finds.
std::string Watch::describe(int group, const std::string& error) {
  log_warn(log_.current(group) + " has failed: " + error);
  write_last_calls();
  try {
    std::vector<RankState> before, now;
    {
      const std::lock_guard lock(store_mutex_);
      before = all_states();
    }
    const auto end = std::chrono::steady_clock::now() + kBeatOfTheLiving;
    do {
      std::this_thread::sleep_for(kLook * kLooksABeat);
      beat();  // this rank's own goes on, whichever thread this is
      const std::lock_guard lock(store_mutex_);
      now = all_states();
    } while (!all_beat(before, now) && std::chrono::steady_clock::now() < end);
    now.at(static_cast<size_t>(place_.rank)).last = group;
    return heard(tell(who_waits_for_whom(place_.rank, before, now) + " (" + error + ")",
                      /*in_call=*/true));
  } catch (const std::exception& e) {
    return log_.current(group) + " has failed: " + error + "; " + e.what();
  }
}

void Watch::fail_call(int group, const std::string& error) {
  const bool is_main = std::this_thread::get_id() == main_;
  if (failing_.exchange(true)) {
    if (!is_main) throw RankLost(log_.current(group) + " has failed: " + error);
    for (;;) ::pause();  // another thread has found a fault and ends the process
  }
  const std::string message = describe(group, error);
  if (!is_main) end_process(message);
  {
    const std::lock_guard lock(mutex_);
    message_ = message;
  }
  report(Report::told, message);
  wait_for_readers();
  throw RankLost(message);
}

void Watch::fail(const std::string& message) noexcept try {
  if (failing_.exchange(true)) return;
  {
    const std::lock_guard lock(mutex_);
    message_ = message;
  }
  report(Report::failed, message);
  tell(format("rank %d (%s, pid %d) has failed: %s", place_.rank, host_.c_str(),
              static_cast<int>(::getpid()), message.c_str()),
       /*in_call=*/false);
  wait_for_readers();
} catch (const std::exception&) {  // no store, no listeners: the message is on its way to main()
}

// The rank that has the store keeps it open until all others have read what went wrong.
void Watch::wait_for_readers() noexcept try {
  const std::lock_guard lock(store_mutex_);
  int64_t read = store_->add("fault/read", 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kReaders);
  while (place_.serves_store && read < place_.world && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kLook);
    read = store_->add("fault/read", 0);
  }
} catch (const std::exception&) {
}

void Watch::leave(const std::string& why, double seconds) noexcept try {
  failing_ = true;  // whatever the others do now, this rank has ended well
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  const std::lock_guard lock(store_mutex_);
  left_ = why;
  ++beat_;
  store_->set(key_of_state(place_.rank), to_text(state()));
  int64_t left = store_->add("left", 1);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (place_.serves_store && left < place_.world && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kLook / 5);
    left = store_->add("left", 0);
  }
} catch (const std::exception&) {
}

}  // namespace conclave::comm
