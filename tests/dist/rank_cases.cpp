// A rank that does what a test asks for, started by any launcher: rank_cases CASE [SECONDS].
//   values           every collective over all ranks, halves and pairs: the values of
//                    tests/comm/collective_cases.h
//   calls SECONDS    small calls for that long: for ranks that are killed or stopped meanwhile
//   wrong_size       rank 1's 5th call has another size
//   wrong_rows       rank 1 sends more rows than rank 0 expects
//   differ           rank 1 has another config
//   throw            rank 1 throws between calls
//   early            rank 1 returns while the others go on
// CONCLAVE_TEST_DEVICE=cuda: on GPUs. Exit status as conclave's.
#include <ATen/ops/ones.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/abandon.h"
#include "base/error.h"
#include "base/timer.h"
#include "comm/collective_cases.h"
#include "comm/store.h"
#include "comm/world.h"

namespace {

using namespace conclave;

struct Ranks {
  comm::World& world;
  at::Device device;
  comm::Comm& all;
};

std::vector<int> every(int world, int step, int from, int count) {
  std::vector<int> ranks;
  for (int i = 0; i < count; ++i) ranks.push_back(from + i * step);
  return ranks;
}

void values(const Ranks& r) {
  const auto sums = r.device.is_cuda() ? comm::Sums::near : comm::Sums::in_rank_order;
  comm::CollectiveCases(r.all, r.device, sums).run();
  if (r.device.is_cuda()) comm::CollectiveCases(r.all, at::kCPU).run();
  const int n = r.world.world(), half = n / 2;
  if (n < 4) return;
  // Neighbours, and ranks half the world apart.
  const int mine = r.world.rank();
  const auto halves = r.world.make(every(n, 1, mine / half * half, half), "half");
  const auto pairs = r.world.make(every(n, half, mine % half, 2), "pair");
  comm::CollectiveCases(*halves, r.device, sums).run();
  comm::CollectiveCases(*pairs, r.device, sums).run();
}

at::Tensor ones(const Ranks& r, int64_t n) {
  return at::ones({n}, at::TensorOptions(at::kFloat).device(r.device));
}

void calls(const Ranks& r, double seconds) {
  const Timer timer;
  at::Tensor stop = at::ones({1}, at::kLong);
  for (;;) {
    r.all.all_reduce(ones(r, 4));
    stop.fill_(timer.seconds() > seconds);
    r.all.all_reduce(stop);  // all stop at one call
    if (stop.item<int64_t>() > 0) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void wrong_size(const Ranks& r) {
  for (int i = 0; i < 8; ++i) {
    at::Tensor x = ones(r, i == 4 && r.world.rank() == 1 ? 5 : 4);
    r.all.all_reduce(x);
    x.cpu();
  }
}

void wrong_rows(const Ranks& r) {
  std::vector<int64_t> send(static_cast<size_t>(r.world.world()), 1), receive = send;
  if (r.world.rank() == 1) ++send[0];
  const auto n = static_cast<int64_t>(send.size());
  r.all.all_to_all(ones(r, n), ones(r, n + (r.world.rank() == 1)), receive, send);
}

void run_case(const Ranks& r, const std::string& name, double seconds) {
  const bool odd_one = r.world.rank() == 1;
  if (name == "values") return values(r);
  if (name == "calls") return calls(r, seconds);
  if (name == "wrong_size") return wrong_size(r);
  if (name == "wrong_rows") return wrong_rows(r);
  if (name == "differ")
    return r.world.require_same("config", odd_one ? "seed: 1\nsteps: 20" : "seed: 1\nsteps: 10");
  r.all.barrier();
  if (name == "throw" && odd_one) throw RunError("out/step-3: cannot write: No space left");
  if (name == "early" && odd_one) return;
  if (name == "throw" || name == "early") return r.all.barrier();
  throw ConfigError("there is no case `" + name + "`");
}

int run(int argc, char** argv) {
  const auto place = comm::place_from([](const char* name) { return std::getenv(name); });
  if (!place) throw ConfigError("no launcher has set this process's rank");
  const char* wanted = std::getenv("CONCLAVE_TEST_DEVICE");
  const at::Device device(wanted && std::strcmp(wanted, "cuda") == 0 ? at::kCUDA : at::kCPU);
  comm::World world(*place,
                    comm::world_options([](const char* name) { return std::getenv(name); }, {}));
  try {
    world.use_device(device);
    std::vector<int> ranks = every(world.world(), 1, 0, world.world());
    const auto all = world.make(ranks, "world");
    if (world.rank() == 0) {
      for (const std::string& line : world.hosts()) std::printf("%s\n", line.c_str());
      std::printf("%s\n", world.transport().c_str());
      std::fflush(stdout);
    }
    run_case({world, world.device(), *all}, argc > 1 ? argv[1] : "values",
             argc > 2 ? std::atof(argv[2]) : 0);
  } catch (const std::exception& e) {
    world.fail(comm::first_line(e));
    throw;
  }
  world.leave();
  if (world.rank() == 0) std::printf("all well\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const auto say = [](const std::string& message) {
    std::fprintf(stderr, "rank_cases: %s\n", message.c_str());
  };
  set_abandon([say](const std::string& message) {
    say(message);
    ::_exit(1);
  });
  try {
    return run(argc, argv);
  } catch (const ConfigError& e) {
    say(e.what());
    return 2;
  } catch (const std::exception& e) {
    say(comm::first_line(e));
    return 1;
  }
}
