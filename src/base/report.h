// What a rank is doing, told to the `conclave launch` that started it: when a rank dies without a
// word, its last one is known.
#pragma once
#include <string_view>

namespace conclave {

// Writes "KIND TEXT" as one line to the pipe whose descriptor is in CONCLAVE_REPORT_FD; nothing
// without one. Never waits: a line that finds the pipe full is dropped. Cost: one system call.
// Safe from any thread.
enum class Report {
  doing,   // an operation begins
  failed,  // this rank ends by a fault of its own
  told     // it ends because of another rank's
};
void report(Report kind, std::string_view text);

}  // namespace conclave
