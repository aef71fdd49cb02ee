#include "comm/rank_layout.h"

#include <numeric>

namespace conclave::comm {
namespace {

std::string number(int64_t n) { return std::to_string(n); }

bool divides(int64_t part, int64_t whole) { return whole % part == 0; }

// The least valid value above `got`, else the largest below it: "the next that fits is 4".
template <class Valid>
std::string next(int64_t got, int64_t most, const Valid& valid) {
  for (int64_t n = got + 1; n <= most; ++n)
    if (valid(n)) return "the next that fits is " + number(n);
  for (int64_t n = std::min(got - 1, most); n >= 1; --n)
    if (valid(n)) return "the next that fits is " + number(n);
  return "none fits";
}

// The ranks along one data-parallel axis, given the other where that is set.
int64_t data_axis(const char* key, int64_t size, std::optional<int64_t> other,
                  const char* other_key, int64_t world, const LayoutError& error) {
  const auto valid = [&](int64_t n) { return other ? n * *other == world : divides(n, world); };
  if (valid(size)) return size;
  const std::string ranks = number(world) + (world == 1 ? " rank" : " ranks");
  const std::string what = other ? std::string("with ") + other_key + " " + number(*other) +
                                       " it makes " + number(size * *other) + " ranks, expected " +
                                       number(world)
                                 : "expected a divisor of the " + ranks + ", got " + number(size);
  throw error(key, what + "; " + next(size, world, valid));
}

// Expert ranks lie in one node or fill whole ones: only then is a group's traffic even.
bool fits_nodes(int64_t ep, int64_t per_node) {
  return divides(ep, per_node) || divides(per_node, ep);
}

int64_t expert_ranks(const std::optional<int64_t>& given, const LayoutFacts& f,
                     const LayoutError& error) {
  if (!given)
    return f.experts ? std::gcd(std::gcd(f.experts, int64_t{f.world}), int64_t{f.ranks_per_node})
                     : 1;
  const int64_t ep = *given;
  if (f.experts == 0 && ep != 1) throw error("ep", "the model has no experts; expected 1");
  const auto valid = [&](int64_t n) {
    return divides(n, f.world) && (f.experts == 0 || divides(n, f.experts)) &&
           fits_nodes(n, f.ranks_per_node);
  };
  if (valid(ep)) return ep;
  const std::string what =
      !divides(ep, f.world)     ? "expected a divisor of the " + number(f.world) + " ranks"
      : !divides(ep, f.experts) ? "expected a divisor of the " + number(f.experts) + " experts"
                                : "expected ranks that lie in one node of " +
                                      number(f.ranks_per_node) + " or fill whole ones";
  throw error("ep", what + ", got " + number(ep) + "; " + next(ep, f.world, valid));
}

}  // namespace

Mesh RankLayout::dense() const {
  return Mesh::row_major(world(), {{"dp_replicate", dp_replicate}, {"dp_shard", dp_shard}});
}

Mesh RankLayout::experts() const {
  return Mesh::row_major(world(),
                         {{"ep_replicate", ep_replicate}, {"ep_shard", ep_shard()}, {"ep", ep}});
}

std::string RankLayout::text() const {
  return "dp_replicate " + number(dp_replicate) + " · dp_shard " + number(dp_shard) +
         ", ep_replicate " + number(ep_replicate) + " · ep_shard " + number(ep_shard()) + " · ep " +
         number(ep);
}

RankLayout make_layout(const ParallelConfig& c, const LayoutFacts& f, const LayoutError& error) {
  RankLayout out;
  const int64_t shard = c.dp_shard ? data_axis("dp_shard", *c.dp_shard, {}, "", f.world, error)
                                   : f.world / data_axis("dp_replicate", c.dp_replicate.value_or(1),
                                                         {}, "", f.world, error);
  out.dp_shard = static_cast<int>(shard);
  out.dp_replicate = static_cast<int>(data_axis(
      "dp_replicate", c.dp_replicate.value_or(f.world / shard), shard, "dp_shard", f.world, error));
  const int64_t ep = expert_ranks(c.ep, f, error);
  out.ep = static_cast<int>(ep);
  const int64_t left = f.world / ep, copies = c.ep_replicate.value_or(1);
  const auto valid = [&](int64_t n) { return divides(n, left) && (f.experts > 0 || n == 1); };
  if (!valid(copies))
    throw error("ep_replicate", f.experts == 0
                                    ? "the model has no experts; expected 1"
                                    : "expected a divisor of the " + number(left) +
                                          " groups of ep " + number(ep) + " ranks, got " +
                                          number(copies) + "; " + next(copies, left, valid));
  out.ep_replicate = static_cast<int>(copies);
  if (c.capacity && c.dispatcher != "all_to_all")
    throw error("capacity", "has no effect with dispatcher " + c.dispatcher +
                                ", which sends every row anyway; leave it out");
  if (c.capacity && ep == 1)
    throw error("capacity",
                "has no effect with ep 1, where rows stay where they are; leave it out");
  return out;
}

}  // namespace conclave::comm
