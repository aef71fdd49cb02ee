// The loss on what is not trained on.
#pragma once
#include <cstdint>

#include "train/capacity.h"

namespace conclave::train {

struct Parts;

// Mean loss over the scored positions of all rows of parts.validation, nats a token; `micro_rows`
// at once on a rank. Where rows found no room it is done again with more. Waits for the device.
// Collective.
double validate(Parts& parts, CapacityKeeper& capacity, int64_t micro_rows);

}  // namespace conclave::train
