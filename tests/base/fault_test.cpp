#include "base/fault.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/timer.h"

namespace conclave {
namespace {

// Passes the point `save` three times and `load` once in a process of its own. Returns the number
// of passages of `save` survived, 100 + that if it was killed.
int passages_survived(const char* kill_at) {
  int pipe_ends[2];
  EXPECT_EQ(::pipe(pipe_ends), 0);
  pid_t child = ::fork();
  if (child == 0) {
    ::setenv("CONCLAVE_KILL_AT", kill_at, 1);
    fault_point("load");
    for (int i = 0; i < 3; ++i) {
      fault_point("save");
      if (::write(pipe_ends[1], "x", 1) != 1) ::_exit(1);
    }
    ::_exit(0);
  }
  ::close(pipe_ends[1]);
  int count = 0, status = 0;
  char byte;
  while (::read(pipe_ends[0], &byte, 1) == 1) ++count;
  ::close(pipe_ends[0]);
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 100 + count : count;
}

TEST(FaultPoint, KillsAtTheNamedPassageOnly) {
  EXPECT_EQ(passages_survived("save"), 100);
  EXPECT_EQ(passages_survived("save:1"), 100);
  EXPECT_EQ(passages_survived("save:3"), 102);
  EXPECT_EQ(passages_survived("save:4"), 3);
  EXPECT_EQ(passages_survived("sav"), 3);
  EXPECT_EQ(passages_survived(""), 3);
}

TEST(FaultPoint, HangsOnTheNamedRankOnly) {
  const auto hangs = [](const char* rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      ::setenv("CONCLAVE_HANG_AT", "save", 1);
      ::setenv("CONCLAVE_FAULT_RANK", rank, 1);
      ::alarm(1);
      fault_point("save");
      ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
  };
  EXPECT_TRUE(hangs("-1"));  // no rank was set here
  EXPECT_FALSE(hangs("0"));
}

TEST(FaultPoint, SlowsEachPassage) {
  const auto seconds = [](const char* point) {
    const Timer timer;
    fault_point(point), fault_point(point);
    return timer.seconds();
  };
  ::setenv("CONCLAVE_DELAY_AT", "save:30", 1);
  EXPECT_GE(seconds("save"), 0.06);
  EXPECT_LT(seconds("sav"), 0.03);
  ::unsetenv("CONCLAVE_DELAY_AT");
}

TEST(NanPoint, AtOnePassageOrFromOneOn) {
  const auto passages = [](const char* variable, const char* value) {
    ::setenv(variable, value, 1);
    std::string which;
    for (int i = 1; i <= 4; ++i)
      if (nan_point("loss")) which += std::to_string(i);
    ::unsetenv(variable);
    return which;
  };
  EXPECT_EQ(passages("CONCLAVE_NAN_AT", "loss:2"), "2");
  EXPECT_EQ(passages("CONCLAVE_NAN_FROM", "loss:3"), "34");
  EXPECT_EQ(passages("CONCLAVE_NAN_FROM", "los:1"), "");
  EXPECT_EQ(passages("CONCLAVE_NAN_AT", "loss:6"), "2");  // counted on
}

}  // namespace
}  // namespace conclave
