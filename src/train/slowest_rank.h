// For which rank the others wait, and how long.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace conclave::train {

class SlowestRank {
 public:
  struct Lag {
    int rank = 0;
    double of_step = 0;  // how much longer the others' calls take, a part of a step
  };

  // Of one step: the seconds of each rank's calls (comm/call_times.h), and of the step where it
  // took longest: the slowest rank may begin it last. Smoothed over about twenty steps.
  void add(const std::vector<double>& in_calls, double step);
  // The rank with the shortest calls, against the middle one of the others; nothing before a step.
  std::optional<Lag> lag() const;
  // "slowest rank 3 (+12 %)"; empty below kWorthSaying.
  std::string text() const;

  static constexpr double kWorthSaying = 0.05;

 private:
  std::vector<double> in_calls_;  // by rank, parts of a step
  int steps_ = 0;
};

}  // namespace conclave::train
