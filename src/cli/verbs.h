// The verbs of the program and their flags.
#pragma once
#include <string>

namespace CLI {
class App;
}

namespace conclave::cli {

// Adds a subcommand a verb; each runs its recipe while the line is parsed and sets `status` to the
// exit status of a run that did not throw (0 or 75).
void add_verbs(CLI::App& app, int& status);
// Throws ConfigError if there is no such verb, and names the nearest.
void check_verb(const CLI::App& app, const std::string& name);
// What `conclave help` prints.
std::string overview();

}  // namespace conclave::cli
