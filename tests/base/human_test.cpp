#include "base/human.h"

#include <gtest/gtest.h>

#include <limits>

namespace conclave {
namespace {

TEST(Human, Bytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1023), "1.0 KiB");
  EXPECT_EQ(human_bytes(1.5 * (1 << 30)), "1.5 GiB");
  EXPECT_EQ(human_bytes(310.0 * (1 << 20)), "310 MiB");
}

TEST(Human, BytesFromText) {
  EXPECT_EQ(bytes_of("72 GiB"), int64_t{72} << 30);
  EXPECT_EQ(bytes_of("1.5 KiB"), 1536);
  EXPECT_EQ(bytes_of("0 B"), 0);
  for (const char* text : {"", "72", "72GiB", "72 GB", "-1 B", "x GiB", "1e30 PiB", "nan B"})
    EXPECT_EQ(bytes_of(text), std::nullopt) << text;
}

TEST(Human, Counts) {
  EXPECT_EQ(human_count(812), "812");
  EXPECT_EQ(human_count(3.72), "3.7");
  EXPECT_EQ(human_count(999.6), "1.0 k");
  EXPECT_EQ(human_count(12.3e6), "12.3 M");
  EXPECT_EQ(human_count(30.5e9), "30.5 B");
  EXPECT_EQ(human_count(5e15), "5000 T");
  EXPECT_EQ(human_rate(12345, "tokens"), "12.3 k tokens/s");
}

TEST(Human, Durations) {
  EXPECT_EQ(human_duration(0.4), "0:00:00");
  EXPECT_EQ(human_duration(3723), "1:02:03");
  EXPECT_EQ(human_duration(59.6), "0:01:00");
  EXPECT_EQ(human_duration(3 * 86400 + 3723), "3 d 1:02:03");
  EXPECT_EQ(human_duration(-1), "?");
  EXPECT_EQ(human_duration(std::numeric_limits<double>::quiet_NaN()), "?");
}

}  // namespace
}  // namespace conclave
