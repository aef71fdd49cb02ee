#include "base/human.h"

#include <cmath>
#include <cstdlib>
#include <iterator>

#include "base/text.h"

namespace conclave {
namespace {

constexpr const char* kBytes[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};

// Scales to the first unit in which the number prints with at most three digits before the point.
std::string scaled(double value, double base, const char* const* units, size_t count) {
  size_t unit = 0;
  while (std::abs(value) >= 999.5 && unit + 1 < count) {
    value /= base;
    ++unit;
  }
  bool whole = std::abs(value) >= 99.95 || (unit == 0 && value == std::round(value));
  std::string number = format(whole ? "%.0f" : "%.1f", value);
  return *units[unit] ? number + ' ' + units[unit] : number;
}

}  // namespace

std::string human_bytes(double bytes) { return scaled(bytes, 1024, kBytes, std::size(kBytes)); }

std::optional<int64_t> bytes_of(const std::string& text) {
  char* rest = nullptr;
  double bytes = std::strtod(text.c_str(), &rest);
  if (rest == text.c_str() || *rest != ' ' || !(bytes >= 0)) return std::nullopt;
  for (const char* unit : kBytes) {
    if (std::string(rest + 1) == unit && bytes < 9e18) return static_cast<int64_t>(bytes);
    bytes *= 1024;
  }
  return std::nullopt;
}

std::string human_count(double count) {
  static constexpr const char* kUnits[] = {"", "k", "M", "B", "T"};
  return scaled(count, 1000, kUnits, std::size(kUnits));
}

std::string human_duration(double seconds) {
  if (!(seconds >= 0 && seconds < 1e9)) return "?";
  long long s = std::llround(seconds);
  std::string clock = format("%lld:%02lld:%02lld", s / 3600 % 24, s / 60 % 60, s % 60);
  return s < 86400 ? clock : format("%lld d ", s / 86400) + clock;
}

std::string human_rate(double per_second, const char* unit) {
  return human_count(per_second) + ' ' + unit + "/s";
}

}  // namespace conclave
