// How many CPU threads a recipe uses.
#pragma once
#include <cstdint>

namespace conclave::recipes {

// So many processes of this run share the host's cores.
void share_cores(int64_t processes);

// 0: one a core that this process may use, or its share of them. Results do not depend on it.
void use_threads(int64_t threads);

}  // namespace conclave::recipes
