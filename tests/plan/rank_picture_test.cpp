#include "plan/rank_picture.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

namespace conclave::plan {
namespace {

// Two copies over four ranks each, experts over four ranks in two cuts.
RankPicture picture(int ranks = 8) {
  RankPicture p{.title = "A model <of> \"some\" sizes & ranks",
                .layout = "dp_replicate 2 · dp_shard 4",
                .notes = {"a note"},
                .dense_copies = 2,
                .dense_parts = ranks / 2,
                .expert_parts = 4,
                .expert_cuts = ranks / 4,
                .experts = 24,
                .dense_bytes = 1 << 20,
                .expert_bytes = 1 << 30,
                .world = {{"all_reduce", 512}}};
  RankGroups ep{.name = "ep", .what = "tokens", .traffic = {{"all_to_all", 3 << 20}}};
  for (int r = 0; r < ranks; ++r) {
    p.ranks.push_back({.dense_copy = r / (ranks / 2),
                       .dense_part = r % (ranks / 2),
                       .expert_part = r % 4,
                       .expert_cut = r / 4});
    ep.group_of.push_back(r / 4);
  }
  p.groups = {ep, ep, ep, ep, ep};
  return p;
}

size_t count(const std::string& text, const std::string& what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

// What keeps `text` from being XML, as far as this writer could break it: elements that do not
// nest, quotes that do not close, signs that must be escaped.
std::string trouble(const std::string& text) {
  std::vector<std::string> open;
  for (size_t at = text.find('<'), end = 0; at != std::string::npos; at = text.find('<', end)) {
    for (size_t amp = text.find('&', end); amp < at; amp = text.find('&', amp + 1))
      if (text.compare(amp, 4, "&lt;") && text.compare(amp, 5, "&amp;") &&
          text.compare(amp, 6, "&quot;"))
        return "a bare &";
    end = text.find('>', at);
    if (end == std::string::npos) return "an open <";
    const std::string tag = text.substr(at + 1, end - at - 1);
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (count(tag, "\"") % 2) return "an open quote in <" + tag + ">";
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return "<" + tag + "> closes nothing";
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

struct Text {
  double left, right, y, height;
  std::string text;
  bool meets(const Text& o) const {
    return left < o.right && o.left < right && y - height < o.y && o.y - o.height < y;
  }
};

// Texts and where they lie, with wide letters.
std::vector<Text> texts(const std::string& svg) {
  std::vector<Text> out;
  for (size_t at = svg.find("<text "); at != std::string::npos; at = svg.find("<text ", at + 1)) {
    const size_t end = svg.find('>', at), close = svg.find("</text>", end);
    const auto value = [&](const char* key) {
      const size_t from = svg.find(key, at) + std::string(key).size();
      return svg.substr(from, svg.find('"', from) - from);
    };
    const std::string shape = value("class=\""), text = svg.substr(end + 1, close - end - 1);
    const double size = shape == "title"    ? 17
                        : shape == "head"   ? 14
                        : shape == "line"   ? 12
                        : shape == "number" ? 10
                                            : 11;
    size_t letters = 0;
    for (char c : text) letters += (c & 0xc0) != 0x80;  // not a second byte of UTF-8
    const double width = 0.58 * size * static_cast<double>(letters);
    const double x = std::atof(value(" x=\"").c_str());
    const double left = shape == "on end" ? x - width : shape == "number" ? x - width / 2 : x;
    out.push_back({left, left + width, std::atof(value(" y=\"").c_str()), size, text});
  }
  return out;
}

TEST(RankPicture, IsWellFormedWithAllRanks) {
  for (int ranks : {8, 64}) {
    const std::string svg = rank_picture_svg(picture(ranks));
    EXPECT_EQ(trouble(svg), "");
    for (int r = 0; r < ranks; ++r)
      EXPECT_EQ(count(svg, ">rank " + std::to_string(r) + "<"), 1) << r;
    EXPECT_EQ(count(svg, ">experts 18–23<"), static_cast<size_t>(ranks / 4));
    EXPECT_EQ(count(svg, ">node "), ranks == 8 ? 0 : 8);
    EXPECT_EQ(count(svg, "class=\"first\""), 5 * 4) << "rank 0's group of each kind";
    EXPECT_EQ(count(svg, ">all_to_all 3.0 MiB<"), 5);
    EXPECT_NE(svg.find("A model &lt;of> &quot;some&quot; sizes &amp; ranks"), std::string::npos);
  }
}

TEST(RankPicture, TheSamePictureHasTheSameBytes) {
  EXPECT_EQ(rank_picture_svg(picture(64)), rank_picture_svg(picture(64)));
  RankPicture other = picture();
  other.ranks[3].expert_part = 0;
  EXPECT_NE(rank_picture_svg(picture()), rank_picture_svg(other));
}

TEST(RankPicture, NoTextLiesOnAnotherOrBesideThePage) {
  for (int ranks : {8, 64}) {
    RankPicture p = picture(ranks);
    p.experts = 512, p.expert_copies = 2;
    const std::vector<Text> all = texts(rank_picture_svg(p));
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_LT(all[i].right, 960) << all[i].text;
      for (size_t j = 0; j < i; ++j)
        EXPECT_FALSE(all[i].meets(all[j])) << all[j].text << " / " << all[i].text;
    }
  }
}

TEST(RankPicture, AModelWithoutExperts) {
  RankPicture p = picture();
  p.experts = 0;
  const std::string svg = rank_picture_svg(p);
  EXPECT_EQ(trouble(svg), "");
  EXPECT_EQ(count(svg, ">experts "), 0);
}

}  // namespace
}  // namespace conclave::plan
