#include "comm/store.h"

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/error.h"
#include "base/text.h"
#include "base/timer.h"

namespace conclave::comm {
namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

// c10d writes the stack of what it throws to stderr as a warning; what is thrown is told here.
void keep_c10d_quiet() {
  if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = c10::GLOG_ERROR;
}

// An answer is awaited this long, for calls that need not wait for a key.
constexpr double kAnswer = 20;

}  // namespace

struct Store::State {
  c10::intrusive_ptr<c10d::Store> store;
  std::string address;

  // Runs f; a broken connection becomes a RunError.
  template <class F>
  auto ask(const F& f) {
    try {
      return f();
    } catch (const std::exception& e) {
      throw RunError("the store at " + address + " does not answer any more (" + first_line(e) +
                     "): the launcher or rank 0, which opened it, is gone");
    }
  }
};

Store::Store(const std::string& host, int port, bool serves, const std::string& prefix,
             double seconds)
    : state_(std::make_unique<State>()), port_(port) {
  state_->address = host + ":" + std::to_string(port);
  keep_c10d_quiet();
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = serves;
  options.waitWorkers = false;
  options.timeout = milliseconds(seconds);
  try {
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    port_ = tcp->getPort();
    tcp->setTimeout(milliseconds(kAnswer));
    state_->store = tcp;
    if (!prefix.empty()) state_->store = c10::make_intrusive<c10d::PrefixStore>(prefix, tcp);
  } catch (const std::exception& e) {
    throw RunError(serves ? "cannot open the store of all ranks at " + state_->address + " (" +
                                first_line(e) + "); choose another MASTER_PORT"
                          : format("found no store at %s within %.0f s; is rank 0 running there? "
                                   "(MASTER_ADDR, MASTER_PORT)",
                                   state_->address.c_str(), seconds));
  }
}

Store::~Store() = default;

c10::intrusive_ptr<c10d::Store> Store::c10d_store() const { return state_->store; }

void Store::set(const std::string& key, const std::string& value) {
  state_->ask([&] { state_->store->set(key, value); });
}

std::optional<std::string> Store::get(const std::string& key, double seconds) {
  // Asked for again and again: c10d's own wait writes a warning for each that ends in vain.
  const Timer timer;
  for (double pause = 0.002;; pause = std::min(2 * pause, 0.1)) {
    if (auto value = peek(key)) return value;
    if (timer.seconds() >= seconds) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::duration<double>(pause));
  }
}

std::optional<std::string> Store::peek(const std::string& key) {
  return state_->ask([&]() -> std::optional<std::string> {
    if (!state_->store->check({key})) return std::nullopt;
    return state_->store->get_to_str(key);
  });
}

std::string Store::offer(const std::string& key, const std::string& value) {
  return state_->ask([&] { return state_->store->compareSet(key, std::string(), value); });
}

int64_t Store::add(const std::string& key, int64_t n) {
  return state_->ask([&] { return state_->store->add(key, n); });
}

std::string first_line(const std::exception& error) {
  const auto* of_libtorch = dynamic_cast<const c10::Error*>(&error);
  std::string text = of_libtorch ? of_libtorch->what_without_backtrace() : error.what();
  if (text.rfind("[/", 0) == 0 && text.find("] ") != std::string::npos)
    text = text.substr(text.find("] ") + 2);
  return text.substr(0, text.find('\n'));
}

}  // namespace conclave::comm
