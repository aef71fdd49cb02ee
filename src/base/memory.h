// What this process has and may have. Limits of a container (cgroup v1 and v2) count as the
// machine's.
#pragma once
#include <cstdint>

namespace conclave {

uint64_t resident_memory();       // bytes now
uint64_t peak_resident_memory();  // bytes at most, since the start
uint64_t available_memory();      // bytes that could still be allocated without swapping
int64_t core_count();             // cores this process may use, at least 1

}  // namespace conclave
