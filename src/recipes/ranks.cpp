#include "recipes/ranks.h"

#include <cstdlib>

#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "comm/store.h"
#include "comm/watch.h"
#include "recipes/threads.h"

namespace conclave::recipes {
namespace {

const char* environment(const char* name) { return std::getenv(name); }

}  // namespace

std::optional<comm::Place> place_here() { return comm::place_from(environment); }

at::Device settle(comm::World& world, at::Device device) {
  world.use_device(device);
  if (world.rank() != 0) return world.device();
  log_info(format("%d ranks, started by %s, talk through %s:", world.world(),
                  world.place().launcher.c_str(), world.transport().c_str()));
  for (const std::string& line : world.hosts()) log_info("  " + line);
  return world.device();
}

int on_ranks(const std::function<std::string()>& same,
             const std::function<int(comm::World* world)>& body) {
  const auto place = place_here();
  if (!place || place->world == 1) return body(nullptr);
  share_cores(place->local_world);
  // Where each rank has a log of its own, each tells all.
  if (place->rank != 0 && !environment("CONCLAVE_REPORT_FD")) set_log_quiet();
  comm::World world(*place, comm::world_options(environment, {}));
  int status = 0;
  try {
    world.require_same("config", same());
    status = body(&world);
  } catch (const std::exception& e) {
    world.fail(comm::first_line(e));
    throw;
  }
  world.leave();
  return status;
}

std::string given(const std::string& config_path, const std::vector<std::string>& sets) {
  std::string text = read_file(config_path);
  for (const std::string& set : sets) text += "\n--set " + set;
  return text;
}

struct LaunchStore::State {
  // The prefix is that of a first attempt (comm/place.h).
  comm::Store store{"127.0.0.1", /*port=*/0, /*serves=*/true, "/conclave/attempt_0",
                    /*seconds=*/20};
};

LaunchStore::LaunchStore() : state_(new State) {}
LaunchStore::~LaunchStore() = default;
int LaunchStore::port() const { return state_->store.port(); }
void LaunchStore::tell_gone(int rank, const std::string& how) {
  state_->store.offer(comm::kGoneKey, comm::gone_text(rank, how));
}
void LaunchStore::tell_all(const std::string& message) {
  state_->store.offer(comm::kFaultKey, comm::fault_text(/*rank=*/-1, message, /*in_call=*/true));
}

}  // namespace conclave::recipes
