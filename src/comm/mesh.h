// Which rank is where: a mesh is a strided layout of the ranks over named axes. Pure data; it opens
// no connection. Several meshes may lie over the same ranks, e.g. one for dense weights, one for
// experts.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::comm {

struct Axis {
  std::string name;  // e.g. "dp"
  int size = 1;
  int stride = 1;  // ranks apart that neighbours along it are
};

class Mesh {
 public:
  // The axes number 0 … world−1, each rank once: ordered by stride (axes of size 1 aside), the
  // first stride is 1, each next one is the one before times its size, and the sizes' product is
  // world. Throws ConfigError if a size is below 1 or the product is not world, c10::Error for the
  // rest.
  Mesh(int world, std::vector<Axis> axes);
  // Axes from slowest to fastest; strides follow.
  static Mesh row_major(int world, std::vector<std::pair<std::string, int>> axes);

  int world() const { return world_; }
  const std::vector<Axis>& axes() const { return axes_; }
  const Axis& axis(std::string_view name) const;

  // Where `rank` stands along the axis.
  int coord(int rank, std::string_view axis) const;
  // The ranks that differ from `rank` along these axes only, itself among them, ascending. No axes:
  // itself.
  std::vector<int> group(int rank, std::span<const std::string> axes) const;
  std::vector<int> group(int rank, std::string_view axis) const;

 private:
  void check_rank(int rank) const;
  int world_;
  std::vector<Axis> axes_;
};

}  // namespace conclave::comm
