// Named points at which a test may kill the process, to prove that a save survives it.
#pragma once

namespace conclave {

// Sends this process SIGKILL if the environment's CONCLAVE_KILL_AT is NAME (the first passage) or
// NAME:N (the N-th, from 1). Otherwise costs a look into the environment. Safe from any thread.
void fault_point(const char* name);

}  // namespace conclave
