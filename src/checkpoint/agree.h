// Ranks that write together: either all of them go on, or all of them throw what the first one met.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "comm/comm.h"

namespace conclave::checkpoint {

// Runs `work` on this rank, then waits for the others. What `work` throws on any rank is thrown on
// all, as a RunError "rank 3: MESSAGE" of the lowest. Collective, with CPU tensors.
void all_or_none(comm::Comm& ranks, const std::function<void()>& work);

// Throws on all ranks unless `hash` is rank 0's on each: `error` of the lowest that differs.
// Collective, with CPU tensors.
void require_same(comm::Comm& ranks, uint64_t hash, const std::string& error);

// `text` of each rank on rank 0, nothing elsewhere. Collective, with CPU tensors.
std::vector<std::string> collect(comm::Comm& ranks, const std::string& text);

// Rank 0's number on all ranks. Collective, with CPU tensors.
int64_t of_rank_zero(comm::Comm& ranks, int64_t number);

}  // namespace conclave::checkpoint
