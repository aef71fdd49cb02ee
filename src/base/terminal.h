// The one owner of stderr: log lines scroll, below them at most one status line that is rewritten
// in place.
#pragma once
#include <string>

namespace conclave {

bool stderr_is_terminal();  // a terminal that can rewrite a line (TERM is not "dumb")
bool stderr_has_colour();   // such a terminal, and NO_COLOR is not set

void terminal_line(const std::string& line);  // one line, at once; newlines inside become spaces
void terminal_status(const std::string& status);  // the status line, cut to the width; "" removes
                                                  // it. Terminals only.

}  // namespace conclave
