// The store of all ranks: keys and values at one address, c10d's TCPStore. What ranks tell each
// other outside of collectives goes through it, and Gloo and NCCL find each other there.
#pragma once
#include <c10/util/intrusive_ptr.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace c10d {
class Store;
}

namespace conclave::comm {

class Store {
 public:
  // Connects to HOST:PORT, and listens there first if `serves`; retries for `seconds`. All keys get
  // the prefix. Throws RunError. A store may be used by one thread at a time; another connection
  // for another thread.
  Store(const std::string& host, int port, bool serves, const std::string& prefix, double seconds);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void set(const std::string& key, const std::string& value);
  // Waits until the key is there; nothing after `seconds`.
  std::optional<std::string> get(const std::string& key, double seconds);
  std::optional<std::string> peek(const std::string& key);  // does not wait
  // Sets the key unless it is there; returns the value that stands.
  std::string offer(const std::string& key, const std::string& value);
  int64_t add(const std::string& key, int64_t n);  // returns the sum

  int port() const { return port_; }  // the one that was found where 0 was asked for
  // For c10d's own back ends.
  c10::intrusive_ptr<c10d::Store> c10d_store() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  int port_;
};

// The first line of what c10d, Gloo or libtorch threw, without its stack and place.
std::string first_line(const std::exception& error);

}  // namespace conclave::comm
