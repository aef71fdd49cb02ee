// The thread beside a rank that tells the others how it fares and learns how they fare: it
// publishes the rank's state in the store, and ends the process when another rank has failed, so
// that no rank waits for one that will not come.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "comm/call_log.h"
#include "comm/place.h"
#include "comm/store.h"

namespace conclave::comm {

// A rank cannot go on because of another one. The message names that one.
struct RankLost : RunError {
  using RunError::RunError;
};

class Watch {
 public:
  // `store`: a connection of its own. Starts the thread; a state is published twice a second.
  Watch(const Place& place, std::unique_ptr<Store> store, const CallLog& log);
  // Stops the thread and leaves: the others see `left`. See leave().
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // A call of this rank has failed (`error`) or timed out. Writes the last calls to the log, finds
  // out who waits for whom (up to 4 s), tells all ranks, and throws RankLost with one line that
  // does so too. If another rank has told of a fault before, that one is thrown instead. In another
  // thread than the one that made the watch, whose errors may be looked at late, the process ends
  // with that line instead (base/abandon.h), unless it is about to end already: then it throws, so
  // that the main thread may wait for that one.
  [[noreturn]] void fail_call(int group, const std::string& error);
  // This rank fails by itself; the others end within a second and say so. Never throws. Nothing
  // after fail_call().
  void fail(const std::string& message) noexcept;
  // This rank makes no further call. The one that has the store waits here for all others, at most
  // `seconds`.
  void leave(const std::string& why, double seconds) noexcept;

  // `look` is called ten times a second by the thread until forget(); what it returns, if anything,
  // is what went wrong in `group`: the process ends as by fail_call().
  void look_after(int group, std::function<std::string()> look);
  void forget(int group);  // when it returns, `look` is not running

 private:
  struct Fault {
    int rank = 0;
    std::string message;
    bool in_call = false;  // a call failed: all ranks write their last calls down
  };
  void run();
  void beat();
  void end_process(const std::string& message);
  RankState state() const;
  std::string describe(int group, const std::string& error);
  std::vector<RankState> all_states();
  Fault tell(const std::string& message, bool in_call);
  void write_last_calls() const;
  std::string heard(const Fault& fault) const;
  void wait_for_readers() noexcept;

  const Place place_;
  const std::string host_;
  const CallLog& log_;
  std::mutex store_mutex_;
  std::unique_ptr<Store> store_;  // under store_mutex_
  std::string left_;              // under store_mutex_
  int64_t beat_ = 0;              // under store_mutex_
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;                                  // under mutex_
  std::map<int, std::function<std::string()>> looks_;  // under mutex_
  std::string message_;  // under mutex_: of the fault with which the process ends
  const std::thread::id main_ = std::this_thread::get_id();
  std::atomic<bool> failing_{false};  // the main thread ends the process itself
  std::thread thread_;
};

// What a launcher that sees a rank's process end badly writes under the key, so that the others
// need not wait for beats that do not come; `how` follows "rank 2 has left: ". The first one
// stands.
inline constexpr const char* kGoneKey = "gone";
std::string gone_text(int rank, const std::string& how);
// The fault with which all ranks end, the first that is offered: of a rank, or of the launcher
// (-1), for ranks that are in no call and so find none.
inline constexpr const char* kFaultKey = "fault";
std::string fault_text(int rank, const std::string& message, bool in_call);

std::string host_name();

}  // namespace conclave::comm
