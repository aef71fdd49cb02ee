#include "recipes/deterministic.h"

#include <ATen/Context.h>

#include <cstdlib>

namespace conclave::recipes {

void use_deterministic_algorithms() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // no kernel of ours reads it
}

}  // namespace conclave::recipes
