// `conclave launch`: several ranks of a verb on this machine.
#pragma once
#include <string>
#include <vector>

namespace conclave::cli {

struct LaunchOptions {
  int ranks = 1;
  std::string logs;                    // folder; empty: one named after the time
  double timeout = 0;                  // seconds; 0: the ranks' own
  std::string binary;                  // empty: this program
  std::vector<std::string> arguments;  // of the ranks: the verb and what follows
};

// Starts the ranks, shows what rank 0 writes and keeps the output of each in a file. When one dies
// the others have a few seconds to end by themselves, then they are killed; the message names the
// rank, its host, its last operation and its last lines. SIGINT, SIGTERM and SIGUSR1 go to all
// ranks. Returns 0 when all have ended, 75 when they were stopped and have saved, the exit status
// of the rank to blame (1 for a signal) otherwise. No rank outlives it, however it ends.
int launch(const LaunchOptions& options);

}  // namespace conclave::cli
