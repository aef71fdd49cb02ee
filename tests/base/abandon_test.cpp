#include "base/abandon.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

namespace conclave {
namespace {

TEST(AbandonDeathTest, DoesWhatMainHasSet) {
  EXPECT_EXIT(
      {
        set_abandon([](const std::string& message) {
          std::fprintf(stderr, "main: %s\n", message.c_str());
          ::_exit(1);
        });
        abandon("rank 1 is gone");
      },
      testing::ExitedWithCode(1), "main: rank 1 is gone");
}

}  // namespace
}  // namespace conclave
