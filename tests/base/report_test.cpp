#include "base/report.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <string>

namespace conclave {
namespace {

// What a process of its own writes on its report pipe while it runs f.
template <class F>
std::string reported(const F& f) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("CONCLAVE_REPORT_FD", std::to_string(ends[1]).c_str(), 1);
    f();
    ::_exit(0);
  }
  ::close(ends[1]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  std::string text;
  std::array<char, 4096> bytes;
  for (ssize_t n; (n = ::read(ends[0], bytes.data(), bytes.size())) > 0;)
    text.append(bytes.data(), static_cast<size_t>(n));
  ::close(ends[0]);
  return text;
}

TEST(Report, OneLineEach) {
  EXPECT_EQ(reported([] {
              report(Report::doing, "dp #1 barrier");
              report(Report::failed, "two\nlines");
              report(Report::told, "rank 1 has left");
            }),
            "doing dp #1 barrier\nfailed two lines\ntold rank 1 has left\n");
}

TEST(Report, NeverWaits) {
  // Nobody reads before the process has ended: the pipe is full long before this is written.
  const std::string text = reported([] {
    for (int i = 0; i < 100'000; ++i) report(Report::doing, std::string(1000, 'x'));
    report(Report::doing, std::string(10'000, 'y'));
  });
  EXPECT_GT(text.size(), 1000U);
  EXPECT_EQ(text.back(), '\n');
}

TEST(Report, WithoutALauncherNothingHappens) { report(Report::doing, "nothing"); }

}  // namespace
}  // namespace conclave
