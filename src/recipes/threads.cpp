#include "recipes/threads.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "base/memory.h"

namespace conclave::recipes {

namespace {
int64_t sharing = 1;
}

void share_cores(int64_t processes) { sharing = processes; }

void use_threads(int64_t threads) {
  const int64_t share = std::max<int64_t>(static_cast<int64_t>(core_count()) / sharing, 1);
  at::set_num_threads(static_cast<int>(threads > 0 ? threads : share));
}

}  // namespace conclave::recipes
