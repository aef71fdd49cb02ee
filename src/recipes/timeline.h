// What a GPU did in a stretch of time, by part of the step (base/parts.h), and what can be said of
// it. Who fills it stands in recipes/gpu_tracer.h.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace conclave::recipes {

struct Timeline {
  struct Activity {     // a kernel, copy or fill
    size_t name;        // in names
    const char* part;   // that launched it; null: none
    double begin, end;  // seconds since the start
    uint32_t stream;
  };
  struct Stretch {
    const char* part;
    double begin;
  };
  std::vector<std::string> names;
  std::vector<Activity> activities;  // begin ascending
  std::vector<Stretch> host;         // which part the host was in, begin ascending
  double seconds = 0;                // of all, the device idle before and after
  // How often the host called what waits for the device, by function.
  std::map<std::string, int64_t> waits;
};

struct TimeByPart {
  std::map<std::string, double> busy;  // seconds; "" is what no part launched
  double idle = 0;                     // while nothing ran
  double sum() const;
};
// Every instant counts once, for the activity that was running longest. Sums to t.seconds.
TimeByPart time_by_part(const Timeline& t);

struct KernelTime {
  std::string part, name;  // "" for none; demangled, without arguments
  int64_t count = 0;
  double seconds = 0;
  double idle = 0;  // in front of it
};
std::vector<KernelTime> kernels_by_time(const Timeline& t);  // the most first

// As JSON that Perfetto and chrome://tracing open: the host's parts, the device's, and each
// stream's kernels.
std::string trace_json(const Timeline& t);

}  // namespace conclave::recipes
