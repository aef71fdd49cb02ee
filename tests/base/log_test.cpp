#include "base/log.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <stdexcept>

#include "base/stderr_of.h"
#include "base/terminal.h"

namespace conclave {
namespace {

TEST(Log, OneLineEach) {
  EXPECT_EQ(stderr_of(false,
                      [] {
                        log_info("one\ntwo");
                        log_warn("three");
                        set_log_rank(2);
                        set_log_rank(2);
                        log_info("four");
                        try {
                          set_log_rank(3);
                        } catch (const std::logic_error&) {
                          log_warn("refused");
                        }
                      }),
            "one two\nwarning: three\n[rank 2] four\n[rank 2] warning: refused\n");
}

TEST(Log, ColourOnTerminalsUnlessRefused) {
  CONCLAVE_NEEDS_TERMINAL();
  EXPECT_EQ(stderr_of(true, [] { log_warn("x"); }), "\x1b[33mwarning:\x1b[0m x\r\n");
  EXPECT_EQ(stderr_of(true,
                      [] {
                        ::setenv("NO_COLOR", "1", 1);
                        log_warn("x");
                        ::setenv("TERM", "dumb", 1);
                        log_warn("y");
                      }),
            "warning: x\r\nwarning: y\r\n");
}

TEST(Terminal, LinesScrollAboveTheStatus) {
  CONCLAVE_NEEDS_TERMINAL();
  EXPECT_EQ(stderr_of(true,
                      [] {
                        terminal_status("50 %");
                        terminal_line("hello");
                        terminal_status("");
                        terminal_status("");
                        terminal_line("end");
                      }),
            "\r\x1b[K50 %\r\x1b[Khello\r\n50 %\r\x1b[Kend\r\n");
  EXPECT_EQ(stderr_of(true, [] { terminal_status(std::string(38, 'x') + "éé"); }),
            "\r\x1b[K" + std::string(38, 'x') + "é");
  EXPECT_EQ(stderr_of(false, [] { terminal_status("50 %"); }), "");
}

TEST(LogDeathTest, AQuietRankOnlyWarns) {
  EXPECT_EXIT(
      {
        set_log_quiet();
        log_info("a line");
        log_warn("a reason");
        std::_Exit(log_is_quiet() ? 0 : 1);
      },
      testing::ExitedWithCode(0), "^(\\[rank [0-9]+\\] )?warning: a reason\n$");
}

}  // namespace
}  // namespace conclave
