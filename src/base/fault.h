// Named points at which a test may kill, stop or slow the process, to prove that a run survives it.
#pragma once

namespace conclave {

// Sends this process SIGKILL if the environment's CONCLAVE_KILL_AT is NAME (the first passage) or
// NAME:N (the N-th, from 1); never returns if CONCLAVE_HANG_AT is, counted likewise; sleeps at each
// passage if CONCLAVE_DELAY_AT is NAME:MILLISECONDS. With CONCLAVE_FAULT_RANK=R on rank R
// (base/log.h) alone. Otherwise costs a look into the environment. Safe from any thread.
void fault_point(const char* name);

// Whether this passage is to compute something that is not a number: the one that CONCLAVE_NAN_AT
// names, or one from that of CONCLAVE_NAN_FROM on; counted and bound to a rank likewise.
bool nan_point(const char* name);

}  // namespace conclave
