#include "comm/mesh.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"

namespace conclave::comm {
namespace {

std::string product(const std::vector<Axis>& axes) {  // "dp 2 · tp 4"
  std::ostringstream out;
  for (size_t i = 0; i < axes.size(); ++i)
    out << (i ? " · " : "") << axes[i].name << " " << axes[i].size;
  return out.str();
}

std::string names(const std::vector<Axis>& axes) {
  std::ostringstream out;
  for (size_t i = 0; i < axes.size(); ++i) out << (i ? ", " : "") << axes[i].name;
  return out.str();
}

void check_names(const std::vector<Axis>& axes) {
  for (size_t i = 0; i < axes.size(); ++i) {
    TORCH_CHECK(!axes[i].name.empty(), "mesh: axis ", i, " has no name");
    for (size_t j = 0; j < i; ++j)
      TORCH_CHECK(axes[i].name != axes[j].name, "mesh: two axes are named ", axes[i].name);
  }
}

void check_sizes(int world, const std::vector<Axis>& axes) {
  if (world < 1) throw ConfigError("mesh: expected at least 1 rank, got " + std::to_string(world));
  int64_t ranks = 1;
  for (const Axis& a : axes) {
    if (a.size < 1)
      throw ConfigError("mesh: expected axis " + a.name + " of at least 1, got " +
                        std::to_string(a.size));
    ranks *= a.size;
    if (ranks > world) break;
  }
  if (ranks != world)
    throw ConfigError("mesh: " + (axes.empty() ? std::string("no axis") : product(axes)) +
                      " does not make " + std::to_string(world) +
                      " ranks; choose sizes whose product is the number of ranks");
}

void check_strides(std::vector<Axis> axes) {
  std::erase_if(axes, [](const Axis& a) { return a.size == 1; });
  std::stable_sort(axes.begin(), axes.end(),
                   [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  int expected = 1;
  for (const Axis& a : axes) {
    TORCH_CHECK(a.stride == expected, "mesh: expected stride ", expected, " for axis ", a.name,
                " of size ", a.size, ", got ", a.stride);
    expected *= a.size;
  }
}

}  // namespace

Mesh::Mesh(int world, std::vector<Axis> axes) : world_(world), axes_(std::move(axes)) {
  check_names(axes_);
  check_sizes(world_, axes_);
  check_strides(axes_);
}

Mesh Mesh::row_major(int world, std::vector<std::pair<std::string, int>> axes) {
  std::vector<Axis> strided;
  for (auto& [name, size] : axes) strided.push_back({std::move(name), size, 1});
  check_sizes(world, strided);
  for (size_t i = strided.size(); i-- > 1;)
    strided[i - 1].stride = strided[i].stride * strided[i].size;
  return Mesh(world, std::move(strided));
}

const Axis& Mesh::axis(std::string_view name) const {
  const auto found =
      std::find_if(axes_.begin(), axes_.end(), [&](const Axis& a) { return a.name == name; });
  TORCH_CHECK(found != axes_.end(), "mesh: expected one of the axes ", names(axes_), ", got ",
              name);
  return *found;
}

void Mesh::check_rank(int rank) const {
  TORCH_CHECK(0 <= rank && rank < world_, "mesh: expected a rank in 0 … ", world_ - 1, ", got ",
              rank);
}

int Mesh::coord(int rank, std::string_view name) const {
  check_rank(rank);
  const Axis& a = axis(name);
  return rank / a.stride % a.size;
}

std::vector<int> Mesh::group(int rank, std::span<const std::string> names) const {
  check_rank(rank);
  std::vector<int> ranks{rank};
  for (const std::string& name : names) {
    const Axis& a = axis(name);
    TORCH_CHECK(std::count(names.begin(), names.end(), name) == 1, "mesh: axis ", name,
                " is named twice");
    const int here = coord(rank, name);
    std::vector<int> wider;
    for (int r : ranks)
      for (int c = 0; c < a.size; ++c) wider.push_back(r + (c - here) * a.stride);
    ranks = std::move(wider);
  }
  std::sort(ranks.begin(), ranks.end());
  return ranks;
}

std::vector<int> Mesh::group(int rank, std::string_view axis) const {
  const std::string name(axis);
  return group(rank, std::span(&name, 1));
}

}  // namespace conclave::comm
