// What a step has to do at least, by its parts (base/parts.h): the floor under what is measured.
#pragma once
#include <map>
#include <string>

#include "plan/memory.h"
#include "plan/shape.h"

namespace conclave::plan {

struct Work {
  double products = 0;  // floating-point operations of matrix products
  double scores = 0;    // of attention's scores and values
  double bytes = 0;     // read and written by all else, each operand once a pass
};

// Forward and backward of `rows` sequences of `seq` tokens and one update. What is made again
// counts where it takes no product. A part that is not here has no floor.
std::map<std::string, Work> work_by_part(const ModelShape& model, const TrainingRun& run,
                                         int64_t seq, int64_t rows);

}  // namespace conclave::plan
