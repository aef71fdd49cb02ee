#include "plan/svg.h"

#include <algorithm>
#include <cmath>

#include "base/text.h"

namespace conclave::plan {
namespace {

std::string escaped(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string pixels(double x) { return shortest(std::round(x * 10) / 10); }

}  // namespace

void Svg::rect(double x, double y, double width, double height, std::string_view shape,
               std::string_view fill) {
  body_ += "<rect class=\"" + escaped(shape) + "\" x=\"" + pixels(x) + "\" y=\"" + pixels(y) +
           "\" width=\"" + pixels(width) + "\" height=\"" + pixels(height) + "\"";
  if (!fill.empty()) body_ += " fill=\"" + escaped(fill) + "\"";
  body_ += "/>\n";
}

void Svg::text(double x, double y, std::string_view shape, std::string_view text) {
  body_ += "<text class=\"" + escaped(shape) + "\" x=\"" + pixels(x) + "\" y=\"" + pixels(y) +
           "\">" + escaped(text) + "</text>\n";
}

std::string Svg::finish(double width, double height) const {
  const std::string w = pixels(width), h = pixels(height);
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + w + " " + h + "\" width=\"" +
         w + "\" height=\"" + h + "\" role=\"img\">\n<title>" + escaped(title_) +
         "</title>\n<style>\n" + style_ + "</style>\n" + body_ + "</svg>\n";
}

std::string hue(int index, int count) {
  constexpr double kSaturation = 0.62;
  const double lightness = count > 12 && index % 2 ? 0.66 : 0.76;
  // From blue on, for blue and orange are what two colours should be.
  const double degrees = std::fmod(210 + 360.0 * index / std::max(count, 1), 360.0);
  // Source: CSS Color 4, "converting HSL colors to sRGB".
  const auto channel = [&](int n) {
    const double k = std::fmod(n + degrees / 30, 12.0);
    const double a = kSaturation * std::min(lightness, 1 - lightness);
    return static_cast<int>(
        std::lround(255 * (lightness - a * std::max(-1.0, std::min({k - 3, 9 - k, 1.0})))));
  };
  return format("#%02x%02x%02x", channel(0), channel(8), channel(4));
}

}  // namespace conclave::plan
