#include "comm/mesh.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace conclave::comm {
namespace {

using Names = std::vector<std::string>;

TEST(Mesh, RowMajorCountsTheLastAxisFastest) {
  const Mesh mesh = Mesh::row_major(12, {{"pp", 2}, {"dp", 3}, {"tp", 2}});
  EXPECT_EQ(mesh.axis("pp").stride, 6);
  EXPECT_EQ(mesh.axis("dp").stride, 2);
  EXPECT_EQ(mesh.axis("tp").stride, 1);
  EXPECT_EQ(mesh.coord(9, "pp"), 1);
  EXPECT_EQ(mesh.coord(9, "dp"), 1);
  EXPECT_EQ(mesh.coord(9, "tp"), 1);
  EXPECT_EQ(mesh.group(9, "tp"), (std::vector<int>{8, 9}));
  EXPECT_EQ(mesh.group(9, "dp"), (std::vector<int>{7, 9, 11}));
  EXPECT_EQ(mesh.group(9, Names{"tp", "pp"}), (std::vector<int>{2, 3, 8, 9}));
  EXPECT_EQ(mesh.group(9, Names{}), (std::vector<int>{9}));
  EXPECT_EQ(mesh.group(9, Names{"pp", "dp", "tp"}).size(), 12u);
}

TEST(Mesh, OneRankNeedsNoAxis) {
  const Mesh mesh(1, {});
  EXPECT_EQ(mesh.group(0, Names{}), (std::vector<int>{0}));
  EXPECT_EQ(Mesh::row_major(1, {{"dp", 1}}).group(0, "dp"), (std::vector<int>{0}));
}

// The same ranks seen for dense weights and for experts: groups of each axis partition the ranks.
TEST(Mesh, GroupsPartitionTheRanks) {
  const std::vector<Mesh> meshes{Mesh::row_major(8, {{"dp", 4}, {"tp", 2}}),
                                 Mesh::row_major(8, {{"ep_shard", 2}, {"ep", 4}}),
                                 Mesh(8, {{"a", 2, 1}, {"b", 2, 4}, {"c", 2, 2}, {"one", 1, 77}})};
  for (const Mesh& mesh : meshes)
    for (const Axis& axis : mesh.axes()) {
      std::set<std::vector<int>> groups;
      for (int r = 0; r < mesh.world(); ++r) {
        const auto group = mesh.group(r, axis.name);
        EXPECT_EQ(group[static_cast<size_t>(mesh.coord(r, axis.name))], r);
        groups.insert(group);
      }
      EXPECT_EQ(static_cast<int>(groups.size()), mesh.world() / axis.size);
    }
}

template <class Error, class F>
std::string error_of(const F& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Mesh, SizesThatDoNotFitAreTheUsersMistake) {
  EXPECT_EQ(error_of<ConfigError>([] {
              Mesh::row_major(8, {{"dp", 3}, {"tp", 2}});
            }),
            "mesh: dp 3 · tp 2 does not make 8 ranks; choose sizes whose product is the number of "
            "ranks");
  EXPECT_EQ(error_of<ConfigError>([] { Mesh(2, {}); }),
            "mesh: no axis does not make 2 ranks; choose sizes whose product is the number of "
            "ranks");
  EXPECT_EQ(error_of<ConfigError>([] {
              Mesh::row_major(8, {{"dp", 0}});
            }),
            "mesh: expected axis dp of at least 1, got 0");
  EXPECT_EQ(error_of<ConfigError>([] { Mesh(0, {}); }), "mesh: expected at least 1 rank, got 0");
  EXPECT_THROW(Mesh::row_major(4, {{"a", 1 << 30}, {"b", 1 << 30}, {"c", 16}}), ConfigError);
}

TEST(Mesh, RefusesLayoutsThatDoNotNumberTheRanks) {
  EXPECT_THROW(Mesh(4, {{"a", 2, 1}, {"b", 2, 1}}), c10::Error);
  EXPECT_THROW(Mesh(4, {{"a", 2, 2}, {"b", 2, 4}}), c10::Error);
  EXPECT_THROW(Mesh(4, {{"a", 2, 2}, {"a", 2, 1}}), c10::Error);
  EXPECT_THROW(Mesh(4, {{"", 4, 1}}), c10::Error);
  const Mesh mesh = Mesh::row_major(4, {{"dp", 4}});
  EXPECT_THROW(mesh.coord(4, "dp"), c10::Error);
  EXPECT_THROW(mesh.coord(0, "tp"), c10::Error);
  EXPECT_THROW(mesh.group(0, Names{"dp", "dp"}), c10::Error);
}

}  // namespace
}  // namespace conclave::comm
