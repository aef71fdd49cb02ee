// A recipe on several processes: the ranks that a launcher has started find each other, and one
// that fails takes the others with it.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "comm/world.h"

namespace conclave::recipes {

// Runs `body`: with the world of all ranks where a launcher has started several (comm/place.h),
// else with null. Ranks that differ in program, libraries or `same` (the
// config as it was given) are refused. What body throws is told to the other ranks, which end with
// status 1 within a second or two.
int on_ranks(const std::function<std::string()>& same,
             const std::function<int(comm::World* world)>& body);

// This rank among those that a launcher has started; nothing for a process of its own.
std::optional<comm::Place> place_here();

// Puts the world on the device, says on rank 0 who is there, and returns this rank's device.
at::Device settle(comm::World& world, at::Device device);

// The file as text and the settings, a line each: what all ranks must have been given alike.
std::string given(const std::string& config_path, const std::vector<std::string>& sets);

// The store of ranks that `conclave launch` keeps for those that it starts, once, so that it
// outlives any of them.
class LaunchStore {
 public:
  LaunchStore();
  ~LaunchStore();
  int port() const;
  // The first rank that ended badly; `how`: "it was killed by signal 9". The others name it.
  void tell_gone(int rank, const std::string& how);
  // Ends all ranks that have not found a fault by themselves.
  void tell_all(const std::string& message);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::recipes
