#include "recipes/timeline.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::recipes {
namespace {

// Two kernels that overlap, a gap, one of no part, and idle time at both ends.
Timeline sample() {
  static const char *attention = "attention", *norms = "norms";
  Timeline t;
  t.names = {"_ZN2at6native12_GLOBAL__N_16kernelIfEEvPT_i", "copy"};
  t.activities = {
      {0, attention, 1, 3, 7}, {0, norms, 2, 4, 7}, {1, norms, 2.5, 3.5, 8}, {1, nullptr, 6, 7, 7}};
  t.host = {{attention, 0.5}, {norms, 0.75}, {nullptr, 1}};
  t.seconds = 10;
  return t;
}

TEST(Timeline, EveryInstantCountsOnce) {
  const TimeByPart by = time_by_part(sample());
  EXPECT_EQ(by.busy, (std::map<std::string, double>{{"", 1}, {"attention", 2}, {"norms", 1}}));
  EXPECT_EQ(by.idle, 1 + 2 + 3);
  EXPECT_EQ(by.sum(), 10);
  EXPECT_EQ(time_by_part({.seconds = 2}).idle, 2);
}

TEST(Timeline, KernelsByTime) {
  const auto kernels = kernels_by_time(sample());
  ASSERT_EQ(kernels.size(), 4u);
  EXPECT_EQ(kernels[0].part, "attention");
  EXPECT_EQ(kernels[0].name, "at::native::(anonymous namespace)::kernel<float>");
  EXPECT_EQ(kernels[0].idle, 1);
  EXPECT_EQ(kernels.back().seconds, 0);
}

TEST(Timeline, TraceIsJson) {
  const auto events = nlohmann::json::parse(trace_json(sample()));
  ASSERT_EQ(events.size(), 4u + 2 + 3 + 4);  // names, host, parts, kernels
  EXPECT_EQ(events[4]["name"], "attention");
  EXPECT_EQ(events[4]["dur"], 250000);
  EXPECT_EQ(events.back()["name"], "copy");
  EXPECT_EQ(events[3]["args"]["name"], "GPU: kernels, stream 8");
  EXPECT_EQ(events[events.size() - 2]["tid"], events[3]["tid"]);  // each stream has its row
  EXPECT_EQ(events.back()["tid"], events[2]["tid"]);
}

}  // namespace
}  // namespace conclave::recipes
