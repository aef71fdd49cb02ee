#include "base/progress.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "base/stderr_of.h"

namespace conclave {
namespace {

void sleep_for(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

TEST(StatusLine, PlainLinesComeNowAndThen) {
  EXPECT_EQ(stderr_of(false,
                      [] {
                        StatusLine line(0.2);
                        line.show("a");
                        line.show("b");
                        if (line.due()) line.show("c");
                        sleep_for(0.25);
                        line.show("d");
                        line.finish("done");
                      }),
            "a\nd\ndone\n");
}

TEST(StatusLine, ATerminalIsRewritten) {
  CONCLAVE_NEEDS_TERMINAL();
  EXPECT_EQ(stderr_of(true,
                      [] {
                        StatusLine line(100);
                        line.show("a");
                        line.show("b");  // too soon
                        sleep_for(0.15);
                        line.show("c");
                      }),
            "\r\x1b[Ka\r\x1b[Kc\r\x1b[K");
}

TEST(Progress, AShortStepIsSilent) {
  EXPECT_EQ(stderr_of(false,
                      [] {
                        Progress progress("reading", 10);
                        progress.add(10);
                        progress.finish();
                      }),
            "");
}

TEST(Progress, ALongStepTellsItsShareAndItsEnd) {
  std::string text = stderr_of(false, [] {
    Progress progress("reading", 2048, Progress::Unit::bytes);
    progress.add(512);
    sleep_for(1.05);
    progress.add(512);
    progress.add(1024);
    progress.finish();
  });
  EXPECT_EQ(text.rfind("reading  50 %  1.0 KiB of 2.0 KiB  ", 0), 0u) << text;
  EXPECT_NE(text.find("/s  0:00:01 left\nreading: 2.0 KiB in 0:00:01\n"), std::string::npos)
      << text;
}

}  // namespace
}  // namespace conclave
