// What of a world needs no other process; the rest is in tests/dist.
#include "comm/world.h"

#include <gtest/gtest.h>

#include "cases.h"
#include "comm/program.h"

namespace conclave::comm {
namespace {

WorldOptions options(const char* timeout, const char* compare = nullptr) {
  return world_options(
      [&](const char* name) { return std::string(name) == "CONCLAVE_TIMEOUT" ? timeout : compare; },
      {.timeout = 45});
}

TEST(WorldOptions, FromTheEnvironment) {
  EXPECT_EQ(options(nullptr).timeout, 45);
  EXPECT_EQ(options("2.5").timeout, 2.5);
  EXPECT_FALSE(options("").compare_cuda);
  EXPECT_TRUE(options("", "1").compare_cuda);
  EXPECT_EQ(message_of([] { options("soon"); }),
            "CONCLAVE_TIMEOUT: expected seconds, more than 0, got `soon`");
  EXPECT_EQ(message_of([] { options("0"); }),
            "CONCLAVE_TIMEOUT: expected seconds, more than 0, got `0`");
}

TEST(Program, LinesNameTheProgramAndItsLibraries) {
  const std::string lines = program_lines();
  EXPECT_EQ(lines, program_lines());
  EXPECT_EQ(lines.rfind("program: ", 0), 0U);
  EXPECT_NE(lines.find("\nlibtorch_cpu.so: "), std::string::npos) << lines;
  EXPECT_NE(lines.find("\nlibc10.so: "), std::string::npos) << lines;
}

}  // namespace
}  // namespace conclave::comm
