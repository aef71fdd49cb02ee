#include "comm/world.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/text.h"
#include "base/timer.h"
#include "comm/gloo.h"
#ifdef CONCLAVE_CUDA
#include "comm/nccl.h"
#endif
#include "comm/process_comm.h"
#include "comm/program.h"

namespace conclave::comm {
namespace {

constexpr double kPatience = 10;  // times the time-out: in calls of the control group

// The first line in which the texts differ, as "`…`, … has `…`".
std::string difference(const std::string& theirs, const std::string& ours) {
  const auto a = split(theirs, '\n'), b = split(ours, '\n');
  size_t i = 0;
  while (i < a.size() && i < b.size() && a[i] == b[i]) ++i;
  const auto line = [&](const std::vector<std::string>& lines) {
    return i < lines.size() ? "`" + lines[i] + "`" : std::string("nothing");
  };
  return line(a) + ", rank 0 has " + line(b);
}

// "0–3, 8"; `ranks` ascend.
std::string ranges(const std::vector<int>& ranks) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < ranks.size();) {
    size_t j = i;
    while (j + 1 < ranks.size() && ranks[j + 1] == ranks[j] + 1) ++j;
    parts.push_back(std::to_string(ranks[i]) + (j > i ? "–" + std::to_string(ranks[j]) : ""));
    i = j + 1;
  }
  return join(parts, ", ");
}

}  // namespace

struct World::State {
  Place place;
  WorldOptions options;
  CallLog log;
  std::unique_ptr<Store> store;
  std::unique_ptr<Watch> watch;
  std::vector<std::string> host_of, device_of;  // by rank; on rank 0
  bool one_host = false;
  at::Device device = at::kCPU;
  int64_t questions = 0, groups = 0;  // so far: they keep keys apart

  std::string who(int rank) const {
    const auto r = static_cast<size_t>(rank);
    return "rank " + std::to_string(rank) +
           (r < host_of.size() && !host_of[r].empty() ? " (" + host_of[r] + ")" : "");
  }

  // All ranks' texts on rank 0, nothing elsewhere.
  std::vector<std::string> gather(const std::string& question, const std::string& text) {
    store->set(question + "/" + std::to_string(place.rank), text);
    std::vector<std::string> all, missing;
    if (place.rank != 0) return all;
    const Timer timer;
    for (int r = 0; r < place.world; ++r) {
      const double left = options.timeout - timer.seconds();
      auto one = store->get(question + "/" + std::to_string(r), std::max(left, 0.0));
      if (!one) missing.push_back(who(r));
      all.push_back(one.value_or(""));
    }
    if (!missing.empty())
      throw RunError(
          format("%s: waited %.0f s for %s; see what became of it, or set "
                 "CONCLAVE_TIMEOUT to more seconds",
                 question.c_str(), options.timeout, join(missing, ", ").c_str()));
    return all;
  }

  // Rank 0 says a line to all: "" is good.
  std::string verdict(const std::string& question, const std::string& line) {
    const std::string key = question + "/verdict";
    if (place.rank == 0) {
      store->set(key, line);
      return line;
    }
    const auto heard = store->get(key, options.timeout + 10);
    if (!heard)
      throw RunError(format("%s: rank 0 has not answered within %.0f s", question.c_str(),
                            options.timeout + 10));
    return *heard;
  }
};

World::World(const Place& place, const WorldOptions& options) : state_(new State) {
  state_->place = place;
  state_->options = options;
  set_log_rank(place.rank);
  try {
    meet();
  } catch (const std::exception& e) {
    if (state_->watch) fail(first_line(e));
    throw;
  }
}

void World::meet() {
  State& s = *state_;
  const Place& place = s.place;
  const WorldOptions& options = s.options;
  const auto connect = [&](bool serves) {
    return std::make_unique<Store>(place.store_host, place.store_port, serves, place.store_prefix,
                                   options.timeout);
  };
  s.store = connect(place.serves_store);
  s.watch = std::make_unique<Watch>(place, connect(false), s.log);
  fault_point("comm.meet");
  const std::string program = program_lines();
  for (const std::string& host : s.gather("start", host_name())) s.host_of.push_back(host);
  const bool one = std::all_of(s.host_of.begin(), s.host_of.end(),
                               [&](const auto& h) { return h == s.host_of.front(); });
  s.one_host = s.verdict("start", one ? "one host" : "several hosts") == "one host";
  require_same("program", program);
  use_device(at::kCPU);
}

void World::use_device(at::Device device) {
  State& s = *state_;
  std::string name = "the CPU";
#ifdef CONCLAVE_CUDA
  if (device.is_cuda()) {
    const int gpu = choose_gpu(rank(), s.place.local_rank, s.place.local_world);
    device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu));
    name = "GPU " + std::to_string(gpu);
  }
#else
  if (device.is_cuda())
    throw ConfigError("this program is built without CUDA; expected device: cpu");
#endif
  s.device = device;
  s.device_of = collect("device", name);
}

World::~World() = default;

int World::rank() const { return state_->place.rank; }
int World::world() const { return state_->place.world; }
const Place& World::place() const { return state_->place; }
at::Device World::device() const { return state_->device; }

std::unique_ptr<Comm> World::make(const std::vector<int>& ranks, const std::string& name) {
  return connect(ranks, name, /*aside=*/false);
}

std::unique_ptr<Comm> World::control() {
  std::vector<int> all(static_cast<size_t>(world()));
  std::iota(all.begin(), all.end(), 0);
  return connect(all, "control", /*aside=*/true);
}

std::unique_ptr<Comm> World::connect(const std::vector<int>& ranks, const std::string& name,
                                     bool aside) {
  State& s = *state_;
  const auto mine = std::find(ranks.begin(), ranks.end(), rank());
  TORCH_CHECK(mine != ranks.end() && std::is_sorted(ranks.begin(), ranks.end()), "make: group ",
              name, ": expected ascending ranks with this one, ", rank(), ", among them");
  const GroupPlace place{name, ranks, static_cast<int>(mine - ranks.begin())};
  const std::string prefix =
      "group/" + std::to_string(++s.groups) + "/" + std::to_string(ranks.front());
  Transports transports;
  transports.compare_cuda = s.options.compare_cuda;
  transports.aside = aside;
  try {
    transports.cpu =
        gloo(place, *s.store, prefix + "/gloo",
             {.timeout = s.options.timeout * (aside ? kPatience : 1), .one_host = s.one_host});
#ifdef CONCLAVE_CUDA
    if (device().is_cuda() && !aside)
      transports.cuda = nccl(place, *s.store, prefix + "/nccl", s.options.timeout);
#endif
  } catch (const std::exception& e) {
    throw RunError("group " + name + " of ranks " + ranges(ranks) +
                   ": cannot connect them: " + first_line(e));
  }
  return process_comm(place, std::move(transports), s.log, *s.watch);
}

void World::require_same(const std::string& what, const std::string& text) {
  State& s = *state_;
  const std::string question = what + "/" + std::to_string(++s.questions);
  std::string line;
  const auto all = s.gather(question, text);
  for (size_t r = 1; r < all.size() && line.empty(); ++r)
    if (all[r] != all[0])
      line = s.who(static_cast<int>(r)) + " has another " + what + " than " + s.who(0) + ": " +
             difference(all[r], all[0]) + "; start all ranks with the same";
  const std::string heard = s.verdict(question, line);
  if (heard.empty()) return;
  s.watch->leave("it was refused", /*seconds=*/3);  // all ranks end now, each with this message
  throw ConfigError(heard);
}

std::vector<std::string> World::collect(const std::string& what, const std::string& text) {
  return state_->gather(what + "/" + std::to_string(++state_->questions), text);
}

std::string World::of_rank_zero(const std::string& what, const std::function<std::string()>& text) {
  State& s = *state_;
  const std::string key = what + "/" + std::to_string(++s.questions);
  if (rank() == 0) {
    const std::string said = text();
    s.store->set(key, said);
    return said;
  }
  // If rank 0 fails meanwhile the watch ends this process.
  return *s.store->get(key, std::numeric_limits<double>::infinity());
}

std::vector<std::string> World::hosts() const {
  const State& s = *state_;
  std::vector<std::string> order, lines;
  std::map<std::string, std::vector<int>> ranks;
  std::map<std::string, std::vector<std::string>> devices;
  for (size_t r = 0; r < s.host_of.size(); ++r) {
    const std::string& host = s.host_of[r];
    if (!ranks.count(host)) order.push_back(host);
    ranks[host].push_back(static_cast<int>(r));
    auto& on = devices[host];
    if (std::find(on.begin(), on.end(), s.device_of[r]) == on.end()) on.push_back(s.device_of[r]);
  }
  for (const std::string& host : order)
    lines.push_back(host + (ranks[host].size() == 1 ? ": rank " : ": ranks ") +
                    ranges(ranks[host]) + " on " + join(devices[host], ", "));
  return lines;
}

std::string World::transport() const {
#ifdef CONCLAVE_CUDA
  if (device().is_cuda()) return "NCCL " + nccl_version() + ", Gloo for the CPU";
#endif
  return "Gloo";
}

void World::fail(const std::string& message) noexcept { state_->watch->fail(message); }

void World::leave() noexcept { state_->watch->leave("it has ended", state_->options.timeout); }

WorldOptions world_options(const Environment& environment, WorldOptions options) {
  if (const char* text = environment("CONCLAVE_TIMEOUT"); text && *text) {
    const char* end = text + std::strlen(text);
    const auto [rest, error] = std::from_chars(text, end, options.timeout);
    if (error != std::errc{} || rest != end || !(options.timeout > 0))
      throw ConfigError("CONCLAVE_TIMEOUT: expected seconds, more than 0, got `" +
                        std::string(text) + "`");
  }
  const char* compare = environment("CONCLAVE_COMPARE_CALLS");
  options.compare_cuda = options.compare_cuda || (compare && std::strcmp(compare, "1") == 0);
  return options;
}

}  // namespace conclave::comm
