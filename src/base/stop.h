// SIGINT, SIGTERM and SIGUSR1 (what SLURM sends before the end) ask for a clean stop.
#pragma once

namespace conclave {

// From now on the first such signal sets the flag and writes one line to stderr; the next SIGINT or
// SIGTERM ends the process at once by that signal. Idempotent.
void install_stop_handlers();

bool stop_requested();
void request_stop();  // sets the flag as a signal would, without the line
void clear_stop();    // for tests

}  // namespace conclave
