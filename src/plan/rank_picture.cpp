#include "plan/rank_picture.h"

#include <algorithm>
#include <cmath>

#include "base/human.h"
#include "base/text.h"
#include "plan/svg.h"

namespace conclave::plan {
namespace {

// Light colours lie under dark text in both; what has no colour of its own follows the page.
constexpr const char* kStyle =
    R"(  text { font: 11px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
  .title { font-size: 17px; font-weight: 600; fill: #1f2328 } .head { font-size: 14px; font-weight: 600; fill: #1f2328 }
  .line { font-size: 12px } .name { font-weight: 600; fill: #1f2328 } .end { text-anchor: end }
  .number { font-size: 10px; text-anchor: middle } .number, .on { fill: #1f2328 } .rank { font-weight: 600 }
  .page { fill: #ffffff; stroke: #d0d7de } .cell { fill: #f6f8fa; stroke: #d0d7de } .whole { fill: #eaeef2 }
  .first { stroke: #1f2328; stroke-width: 1.6 } rect { rx: 2px } .page { rx: 8px } .cell, .band { rx: 5px }
  @media (prefers-color-scheme: dark) {
    text { fill: #9ea7b3 } .title, .head, .name { fill: #e6edf3 } .number, .on { fill: #1f2328 }
    .page { fill: #0d1117; stroke: #30363d } .cell { fill: #161b22; stroke: #30363d } .whole { fill: #2a313a }
    .first { stroke: #f0f6fc }
  }
)";

constexpr int kMargin = 24, kWidth = 960, kGap = 8, kInside = kWidth - 2 * kMargin;
constexpr int kMark = 20, kMarkHeight = 16, kPanelGap = 80;  // of the maps of groups

std::string bytes_text(int64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

std::string of_text(const char* what, int index, int count) {
  return format("%s %d of %d", what, index + 1, count);
}

class Drawing {
 public:
  explicit Drawing(const RankPicture& picture)
      : p_(picture),
        svg_(picture.title + ": " + picture.layout, kStyle),
        nodes_((static_cast<int>(picture.ranks.size()) + picture.node - 1) / picture.node) {}

  std::string draw() {
    const int height = lay_out(/*paint=*/false);
    svg_.rect(0.5, 0.5, kWidth - 1, height - 1, "page");
    lay_out(/*paint=*/true);
    return svg_.finish(kWidth, height);
  }

 private:
  // Returns the height. The page is painted first, and is as high as what lies on it.
  int lay_out(bool paint) {
    paint_ = paint;
    int y = 36;
    text(kMargin, y, "title", p_.title);
    text(kMargin, y += 20, "line", p_.layout);
    for (const std::string& note : p_.notes) text(kMargin, y += 17, "line", note);
    y = ranks(y + 34);
    if (!p_.groups.empty()) y = groups(y + 30);
    if (!p_.world.empty())
      text(kMargin, y += 26, "line",
           "All ranks together: " + sums(p_.world) +
               " of counts, losses, the experts' loads and the gradient's norm.");
    return y + kMargin;
  }

  std::string sums(const std::vector<std::pair<std::string, int64_t>>& traffic) const {
    std::vector<std::string> parts;
    for (const auto& [op, bytes] : traffic) parts.push_back(op + " " + bytes_text(bytes));
    return join(parts, ", ");
  }

  int ranks(int y) {
    text(kMargin, y, "head", "What each rank holds");
    y += 18;
    text(kMargin, y, "line",
         "Bar: the dense weights, coloured by copy where the rank keeps its part, " +
             bytes_text(p_.dense_bytes) + ".");
    if (p_.experts)
      text(kMargin, y += 16, "line",
           std::string("Box: the experts of all layers side by side") +
               (p_.expert_cuts > 1 ? ", each cut downwards" : "") +
               ", coloured by part where the rank keeps its own, " + bytes_text(p_.expert_bytes) +
               ".");
    const int width = (kInside - (p_.node - 1) * kGap) / p_.node,
              height = !p_.experts ? 52 : 92 + 15 * ((p_.expert_cuts > 1) + (p_.expert_copies > 1));
    for (int node = 0; node < nodes_; ++node) {
      if (nodes_ > 1) text(kMargin, y + 22, "", format("node %d", node));
      y += nodes_ > 1 ? 28 : 12;
      for (int i = 0; i < p_.node; ++i)
        if (const int rank = node * p_.node + i; rank < static_cast<int>(p_.ranks.size()))
          cell(rank, kMargin + i * (width + kGap), y, width, height);
      y += height;
    }
    return y;
  }

  void cell(int rank, int x, int y, int width, int height) {
    const RankPicture::Rank& r = p_.ranks[static_cast<size_t>(rank)];
    const int left = x + kGap, inside = width - 2 * kGap;
    const std::string copy = hue(r.dense_copy, p_.dense_copies),
                      experts = hue(r.expert_part, p_.expert_parts);
    rect(x + 0.5, y + 0.5, width - 1, height - 1, "cell");
    rect(x + 0.5, y + 0.5, width - 1, 20, "band", copy);
    text(left, y + 14, "on rank", format("rank %d", rank));
    if (p_.dense_copies > 1)
      text(left + inside, y + 14, "on end", format("copy %d", r.dense_copy + 1));
    part(left, y + 26, inside, 6, r.dense_part, p_.dense_parts, 0, 1, copy);
    text(left, y + 44, "", of_text("dense", r.dense_part, p_.dense_parts));
    if (!p_.experts) return;
    part(left, y + 50, inside, 18, r.expert_part, p_.expert_parts, r.expert_cut, p_.expert_cuts,
         experts);
    rect(left - 3, y + 72, inside + 6, 15, "chip", experts);
    const int64_t each = p_.experts / p_.expert_parts, first = each * r.expert_part;
    text(left, y += 83, "on",
         each == 1 ? format("expert %lld", static_cast<long long>(first))
                   : format("experts %lld–%lld", static_cast<long long>(first),
                            static_cast<long long>(first + each - 1)));
    if (p_.expert_cuts > 1) text(left, y += 16, "", of_text("cut", r.expert_cut, p_.expert_cuts));
    if (p_.expert_copies > 1)
      text(left, y += 15, "", of_text("copy", r.expert_copy, p_.expert_copies));
  }

  // A box and the part of it that is kept: `column` of `columns`, `row` of `rows`.
  void part(int x, int y, int width, int height, int column, int columns, int row, int rows,
            const std::string& colour) {
    rect(x, y, width, height, "whole");
    const double w = static_cast<double>(width) / columns, h = static_cast<double>(height) / rows;
    rect(x + column * w, y + row * h, std::max(w, 2.0), std::max(h, 2.0), "kept", colour);
  }

  int groups(int y) {
    text(kMargin, y, "head", "Who talks to whom, and how much in a step");
    text(kMargin, y += 18, "line",
         "Each map shows the ranks as above: one number and colour, one group; rank 0's is framed. "
         "Bytes a rank, of whole buffers, even routing.");
    const int width = (kMark + 1) * p_.node, panels = static_cast<int>(p_.groups.size()),
              apart = width + std::min(kPanelGap, (kInside - panels * width) / panels);
    int below = y;
    for (size_t i = 0; i < p_.groups.size(); ++i)
      below = std::max(below, panel(p_.groups[i], kMargin + static_cast<int>(i) * apart, y + 24));
    return below;
  }

  int panel(const RankGroups& g, int x, int y) {
    const int count = *std::max_element(g.group_of.begin(), g.group_of.end()) + 1;
    text(x, y, "name", g.name);
    text(x, y += 15, "", g.what);
    text(x, y += 15, "",
         format(count == 1 ? "%d group of %zu" : "%d groups of %zu", count,
                g.group_of.size() / static_cast<size_t>(count)));
    y += 8;
    for (size_t r = 0; r < g.group_of.size(); ++r) {
      const int rank = static_cast<int>(r), group = g.group_of[r];
      const int at = x + rank % p_.node * (kMark + 1), top = y + rank / p_.node * (kMarkHeight + 1);
      rect(at, top, kMark, kMarkHeight, group == g.group_of[0] ? "first" : "mark",
           hue(group, count));
      text(at + kMark / 2, top + 12, "number", std::to_string(group + 1));
    }
    y += nodes_ * (kMarkHeight + 1) + 4;
    for (const auto& [op, bytes] : g.traffic) text(x, y += 15, "", op + " " + bytes_text(bytes));
    return y;
  }

  void rect(double x, double y, double width, double height, std::string_view shape,
            std::string_view fill = {}) {
    if (paint_) svg_.rect(x, y, width, height, shape, fill);
  }
  void text(double x, double y, std::string_view shape, std::string_view text) {
    if (paint_) svg_.text(x, y, shape, text);
  }

  const RankPicture& p_;
  Svg svg_;
  const int nodes_;
  bool paint_ = false;
};

}  // namespace

std::string rank_picture_svg(const RankPicture& picture) { return Drawing(picture).draw(); }

}  // namespace conclave::plan
