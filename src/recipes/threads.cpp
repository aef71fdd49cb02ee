#include "recipes/threads.h"

#include <ATen/Parallel.h>

#include "base/memory.h"

namespace conclave::recipes {

void use_threads(int64_t threads) {
  at::set_num_threads(static_cast<int>(threads > 0 ? threads : core_count()));
}

}  // namespace conclave::recipes
