#include "recipes/timeline.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "base/text.h"

namespace conclave::recipes {
namespace {

std::string text_of(const char* part) { return part ? part : ""; }

// f(activity, seconds that count for it, idle seconds before it), in order; returns the idle
// seconds behind the last.
template <class F>
double walk(const Timeline& t, const F& f) {
  double done = 0;
  for (const auto& a : t.activities) {
    const double begin = std::max(a.begin, done);
    f(a, std::max(a.end - begin, 0.0), begin - done);
    done = std::max(done, a.end);
  }
  return std::max(t.seconds - done, 0.0);
}

// "void ns::kernel<int>(float*)" without its type and arguments.
std::string plain_name(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), std::free);
  std::string name = status == 0 ? demangled.get() : mangled;
  for (size_t i = 0, depth = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>' && depth > 0) --depth;
    if (name[i] == '(' && depth == 0 && name.compare(i, 11, "(anonymous ") != 0) {
      name.resize(i);
      break;
    }
  }
  if (name.starts_with("void ")) name.erase(0, 5);
  return name;
}

std::string event(const std::string& name, const char* part, int thread, double begin, double end) {
  return format(
      "{\"name\": %s, \"cat\": \"%s\", \"ph\": \"X\", \"ts\": %.3f, \"dur\": %.3f, "
      "\"pid\": 0, \"tid\": %d}",
      nlohmann::json(name).dump().c_str(), part ? part : "", 1e6 * begin, 1e6 * (end - begin),
      thread);
}

std::string thread_name(int thread, const char* name) {
  return format(
      "{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": 0, \"tid\": %d, \"args\": "
      "{\"name\": \"%s\"}}",
      thread, name);
}

}  // namespace

double TimeByPart::sum() const {
  return std::accumulate(busy.begin(), busy.end(), idle,
                         [](double sum, const auto& part) { return sum + part.second; });
}

TimeByPart time_by_part(const Timeline& t) {
  TimeByPart by;
  const double behind = walk(t, [&](const auto& a, double seconds, double idle) {
    by.busy[text_of(a.part)] += seconds;
    by.idle += idle;
  });
  by.idle += behind;
  return by;
}

std::vector<KernelTime> kernels_by_time(const Timeline& t) {
  std::vector<std::string> plain;
  for (const auto& name : t.names) plain.push_back(plain_name(name));
  std::map<std::pair<std::string, std::string>, KernelTime> all;
  walk(t, [&](const auto& a, double seconds, double idle) {
    KernelTime& k = all[{text_of(a.part), plain[a.name]}];
    k.count += 1, k.seconds += seconds, k.idle += idle;
  });
  std::vector<KernelTime> sorted;
  for (auto& [key, k] : all) {
    k.part = key.first, k.name = key.second;
    sorted.push_back(k);
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return sorted;
}

std::string trace_json(const Timeline& t) {
  constexpr int kHost = 0, kParts = 1, kKernels = 2;
  std::vector<std::string> events{thread_name(kHost, "host: parts"),
                                  thread_name(kParts, "GPU: parts")};
  std::map<uint32_t, int> row_of;  // of a stream's kernels, in the order of their first
  for (const auto& a : t.activities) {
    const int row = kKernels + static_cast<int>(row_of.size());
    if (row_of.try_emplace(a.stream, row).second)
      events.push_back(thread_name(row, format("GPU: kernels, stream %u", a.stream).c_str()));
  }
  for (size_t i = 0; i < t.host.size(); ++i) {
    const double end = i + 1 < t.host.size() ? t.host[i + 1].begin : t.seconds;
    if (t.host[i].part)
      events.push_back(event(t.host[i].part, "host", kHost, t.host[i].begin, end));
  }
  for (size_t i = 0; i < t.activities.size();) {  // neighbours of one part are one stretch
    size_t next = i;
    double end = 0;
    for (; next < t.activities.size() && t.activities[next].part == t.activities[i].part; ++next)
      end = std::max(end, t.activities[next].end);
    events.push_back(event(t.activities[i].part ? t.activities[i].part : "no part", "GPU", kParts,
                           t.activities[i].begin, end));
    i = next;
  }
  std::vector<std::string> plain;
  for (const auto& name : t.names) plain.push_back(plain_name(name));
  for (const auto& a : t.activities)
    events.push_back(event(plain[a.name], a.part, row_of.at(a.stream), a.begin, a.end));
  return "[\n" + join(events, ",\n") + "\n]\n";
}

}  // namespace conclave::recipes
