#include "base/process.h"

#include <unistd.h>

#include <fstream>
#include <sstream>

namespace conclave {

double seconds_since_launch() {
  // proc(5): field 22 of stat is the start in clock ticks since boot; the name in field 2 may hold
  // spaces and brackets.
  std::string text;
  std::getline(std::ifstream("/proc/self/stat"), text);
  std::istringstream fields(text.substr(text.rfind(')') + 1));
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double started = 0, now = 0;
  fields >> started;
  std::ifstream("/proc/uptime") >> now;
  return now - started / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace conclave
