// How CPU ops share work between threads: over blocks whose borders depend on sizes only, never on
// the number of threads.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace conclave::ops {

// Calls f(i) for i in 0 … n−1, blocks of work spread over the threads; `cost` is roughly how many
// elementary operations one i takes.
template <class F>
void each_block(int64_t n, int64_t cost, const F& f) {
  constexpr int64_t kGrain = 20'000;  // operations below which another thread does not pay
  at::parallel_for(0, n, std::max<int64_t>(1, kGrain / std::max<int64_t>(cost, 1)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) f(i);
                   });
}

}  // namespace conclave::ops
