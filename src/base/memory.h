// What this process has and may have. Limits of a container (cgroup v1 and v2) count as the
// machine's.
#pragma once
#include <cstdint>

namespace conclave {

uint64_t resident_memory();       // bytes now
uint64_t peak_resident_memory();  // bytes at most, since the start
uint64_t memory_at_start();       // resident before main(): the program's and its libraries'
uint64_t available_memory();      // bytes that could still be allocated without swapping
// Blocks of 4 MiB and more go back to the system as soon as they are freed. By itself glibc raises
// that size to 32 MiB as such blocks are freed, and then keeps what lies below others: a training
// step's peak came out up to 40 % above what it holds.
void return_large_blocks();
int64_t core_count();  // cores this process may use, at least 1

}  // namespace conclave
