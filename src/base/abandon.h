// The end of a process whose main thread cannot end it.
#pragma once
#include <functional>
#include <string>

namespace conclave {

// What abandon() does; main() sets it. It does not return.
void set_abandon(std::function<void(const std::string& message)> end);

// For a thread that has found that the main thread waits for what will not come (another rank is
// dead): says the message as main() would and ends the process at once, with status 1, without
// destructors.
[[noreturn]] void abandon(const std::string& message);

}  // namespace conclave
