#include "base/stop.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "base/stderr_of.h"

namespace conclave {
namespace {

const std::string kLine = "stopping: finishing this step, then saving; once more stops at once\n";

TEST(Stop, TheFirstSignalAsksTheSecondEnds) {
  for (int first : {SIGINT, SIGTERM})
    for (int second : {SIGINT, SIGTERM}) {
      Ended ended = run_apart(false, [=] {
        install_stop_handlers();
        if (stop_requested()) ::_exit(3);
        ::raise(first);
        if (!stop_requested()) ::_exit(4);
        ::raise(second);
        ::_exit(5);
      });
      EXPECT_EQ(ended.text, kLine);
      EXPECT_TRUE(WIFSIGNALED(ended.status) && WTERMSIG(ended.status) == second) << ended.status;
    }
}

// SLURM sends SIGUSR1 before the end and SIGTERM at it: the second must not cut the save short.
TEST(Stop, SigUsr1DoesNotCountAsTheFirst) {
  Ended ended = run_apart(false, [] {
    install_stop_handlers();
    ::raise(SIGUSR1);
    ::raise(SIGUSR1);
    ::raise(SIGTERM);
    ::_exit(stop_requested() ? 6 : 7);
  });
  EXPECT_EQ(ended.text, kLine);
  EXPECT_TRUE(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 6) << ended.status;
}

TEST(Stop, CanBeAskedForAndTakenBack) {
  request_stop();
  EXPECT_TRUE(stop_requested());
  clear_stop();
  EXPECT_FALSE(stop_requested());
}

}  // namespace
}  // namespace conclave
