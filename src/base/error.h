// The two errors that are not ours: what the user wrote, and what the machine did. A broken
// contract between functions is TORCH_CHECK's c10::Error instead. cli/ alone catches them and turns
// them into a message and an exit status.
#pragma once
#include <stdexcept>
#include <string>

namespace conclave {

// The user's mistake in a config, a flag or an input that a config names. Exit status 2. The
// message is one line and says what was expected, what came and what to do; where a file is known
// it begins with `file:line:column: `.
struct ConfigError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What went wrong at run time outside the program: a full disk, a missing or damaged file, a folder
// that cannot be written. Exit status 1. One line, as above.
struct RunError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace conclave
