// How many CPU threads a recipe uses.
#pragma once
#include <cstdint>

namespace conclave::recipes {

// 0: one a core that this process may use. Results do not depend on it.
void use_threads(int64_t threads);

}  // namespace conclave::recipes
