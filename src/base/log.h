// Lines for the person who watches, on stderr. Thread-safe; a status line (base/progress.h) is
// moved out of the way.
#pragma once
#include <cstdint>
#include <string>

namespace conclave {

void log_info(const std::string& message);  // "message"
void log_warn(const std::string&
                  message);  // "warning: message", coloured on a terminal unless NO_COLOR is set

// From now on each line begins with "[rank R] ". Once, before other threads log; a second call with
// another rank throws.
void set_log_rank(int64_t rank);
int64_t log_rank();  // -1 before
// From now on log_info and status lines say nothing: another rank says it on the same terminal.
void set_log_quiet();
bool log_is_quiet();

}  // namespace conclave
