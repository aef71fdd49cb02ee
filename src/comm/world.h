// All ranks of a run as processes: they find each other, see that they belong together, make
// communicators, and learn when one of them fails.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/groups.h"
#include "comm/place.h"

namespace conclave::comm {

struct WorldOptions {
  // Seconds: how long a call waits for the other ranks, and how long a start does.
  double timeout = 40;
  // Compare calls on CUDA tensors between ranks before they are made; else a call that differs ends
  // by time-out. CPU tensors always.
  bool compare_cuda = false;
};

class World final : public CommFactory {
 public:
  // Collective over the ranks, on the CPU. Refuses, with a message that names the rank, ranks that
  // run another binary or other libraries than rank 0. Throws RunError, ConfigError.
  World(const Place& place, const WorldOptions& options);
  // After leave() or fail(); without them the other ranks see a rank that was lost.
  ~World() override;

  int rank() const override;
  int world() const override;
  const Place& place() const;
  at::Device device() const;  // with its index
  // Collective, before any group is made. CUDA: this rank's GPU becomes the current device; NCCL
  // then moves tensors there, Gloo those on the CPU. Throws ConfigError.
  void use_device(at::Device device);
  std::unique_ptr<Comm> make(const std::vector<int>& ranks, const std::string& name) override;

  // Collective: all ranks, tensors on the CPU alone, for a thread beside the main one: its calls
  // and the main thread's groups' do not wait for each other. For work that ranks do at their own
  // pace, like writing files: a call waits ten times as long for the others. One that fails there
  // ends the process (comm/watch.h).
  std::unique_ptr<Comm> control();

  // Collective: throws ConfigError on every rank unless `text` is the same on all. The message
  // names the first rank that differs from rank 0 and the first line in which it does.
  void require_same(const std::string& what, const std::string& text);
  // Collective: `text` of each rank on rank 0, nothing elsewhere.
  std::vector<std::string> collect(const std::string& what, const std::string& text);
  // Collective: rank 0's `text()` on all ranks, which wait as long as it takes.
  std::string of_rank_zero(const std::string& what, const std::function<std::string()>& text);
  // One line a host: "node1: ranks 0–3 on the CPU". On rank 0.
  std::vector<std::string> hosts() const;
  // "gloo" or "nccl 2.28.9 + gloo".
  std::string transport() const;

  // This rank has failed: tells the others, who end within a second.
  void fail(const std::string& message) noexcept;
  // This rank is done; the rank that has the store waits for the others.
  void leave() noexcept;

 private:
  void meet();
  std::unique_ptr<Comm> connect(const std::vector<int>& ranks, const std::string& name, bool aside);
  struct State;
  std::unique_ptr<State> state_;
};

// CONCLAVE_TIMEOUT (seconds) and CONCLAVE_COMPARE_CALLS (1) from the environment, over `otherwise`.
WorldOptions world_options(const Environment& environment, WorldOptions otherwise);

}  // namespace conclave::comm
