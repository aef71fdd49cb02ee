// The same bits from the same run on the same device.
#pragma once

namespace conclave::recipes {

// Before anything runs on a GPU: of libtorch's algorithms those that always sum in one order, and
// cuBLAS with workspaces of a fixed size. Ours always do. On the CPU nothing changes.
void use_deterministic_algorithms();

}  // namespace conclave::recipes
