// A picture as SVG text: shapes in the order in which they are painted, in pixels. The same calls
// give the same bytes.
#pragma once
#include <string>
#include <string_view>

namespace conclave::plan {

class Svg {
 public:
  // `title` is what screen readers say; `style` is CSS for the classes that shapes name.
  Svg(std::string title, std::string style) : title_(std::move(title)), style_(std::move(style)) {}
  // `shape` is a class; `fill` a colour over the class's, or empty.
  void rect(double x, double y, double width, double height, std::string_view shape,
            std::string_view fill = {});
  // `y` is the base line; the class says where `x` is (text-anchor).
  void text(double x, double y, std::string_view shape, std::string_view text);
  std::string finish(double width, double height) const;

 private:
  const std::string title_, style_;
  std::string body_;
};

// Colour `index` of `count` that are told apart, "#rrggbb", light enough for dark text on it: round
// the circle of hues, neighbours of other lightness where there are many.
std::string hue(int index, int count);

}  // namespace conclave::plan
