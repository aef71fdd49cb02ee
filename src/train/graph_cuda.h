// The part of train/recording.h that runs on CUDA. Private to train/.
#pragma once
#include "train/recording.h"

namespace conclave::train::cuda {

std::unique_ptr<Graph> make_graph(at::Device device);

}  // namespace conclave::train::cuda
