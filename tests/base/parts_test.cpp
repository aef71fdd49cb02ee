#include "base/parts.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

namespace conclave {
namespace {

struct Log : PartObserver {
  Log() { observe_parts(this); }
  ~Log() override { observe_parts(nullptr); }
  void enter(const char* part) override { text += std::string(part ? part : "-") + ' '; }
  std::string text;
};

TEST(Parts, TheInnermostCounts) {
  Log log;
  {
    Part outer("attention");
    EXPECT_STREQ(Part::current(), "attention");
    { Part inner("norms"); }
    { Part none(nullptr); }
    EXPECT_STREQ(Part::current(), "attention");
  }
  EXPECT_EQ(Part::current(), nullptr);
  EXPECT_EQ(log.text, "attention norms attention - ");
}

TEST(Parts, SwallowedOnesDoNotShow) {
  Log log;
  {
    Part whole("shared expert", Part::Inner::swallowed);
    { Part inner("fc1"); }
    EXPECT_STREQ(Part::current(), "shared expert");
  }
  { Part after("fc1"); }
  EXPECT_EQ(log.text, "shared expert - fc1 - ");
}

TEST(Parts, OfEachThreadItsOwn) {
  Log log;
  Part here("attention");
  std::thread([] {
    EXPECT_EQ(Part::current(), nullptr);
    Part there("norms");
  }).join();
  EXPECT_EQ(log.text, "attention ");
}

TEST(PartTimer, AddsUpToTheWhole) {
  Timer whole;
  PartTimer timer;
  const auto wait = [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
  for (int i = 0; i < 2; ++i) {
    Part outer("a");
    wait();
    {
      Part inner("b");
      wait();
    }
  }
  wait();
  const auto seconds = timer.seconds();
  const double elapsed = whole.seconds();
  double sum = 0;
  ASSERT_EQ(seconds.size(), 3u);
  const char* names[] = {"", "a", "b"};
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(seconds[i].first, names[i]);
    EXPECT_GE(seconds[i].second, i == 0 ? 0.005 : 0.01);
    sum += seconds[i].second;
  }
  EXPECT_NEAR(sum, elapsed, 0.004);
  timer.clear();
  EXPECT_EQ(timer.seconds().size(), 1u);
}

TEST(PartTrace, IsJsonWithAnEventForEachStretch) {
  PartTrace trace;
  {
    Part outer("a");
    Part inner("b");
  }
  const nlohmann::json events = nlohmann::json::parse(trace.json());
  ASSERT_EQ(events.size(), 3u);  // a, b, a again
  EXPECT_EQ(events[1]["name"], "b");
  EXPECT_EQ(events[1]["ph"], "X");
  EXPECT_GE(events[1]["dur"].get<double>(), 0);
  EXPECT_GE(events[2]["ts"].get<double>(), events[1]["ts"].get<double>());
}

}  // namespace
}  // namespace conclave
