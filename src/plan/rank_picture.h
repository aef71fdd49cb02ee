// The picture of a layout of ranks: which rank holds what, who talks to whom. `pretrain --dry-run
// --svg FILE` draws it (docs/parallel.md).
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace conclave::plan {

struct RankGroups {           // the groups of one kind
  std::string name;           // e.g. "dp_shard"
  std::string what;           // they share, e.g. "cuts of the dense weights"
  std::vector<int> group_of;  // by rank, numbered from 0
  // What a rank gives to each operation in a step, whole buffers: ("all_gather", bytes).
  std::vector<std::pair<std::string, int64_t>> traffic;
};

struct RankPicture {
  struct Rank {
    int dense_copy = 0, dense_part = 0;                    // which copy, which part of it
    int expert_part = 0, expert_cut = 0, expert_copy = 0;  // whose experts, which part of each
  };
  std::string title, layout;       // two lines at the top
  std::vector<std::string> notes;  // lines under them
  std::vector<Rank> ranks;
  int dense_copies = 1, dense_parts = 1;
  int expert_parts = 1, expert_cuts = 1, expert_copies = 1;
  int64_t experts = 0;                        // of a layer; 0: none
  int64_t dense_bytes = 0, expert_bytes = 0;  // of weights, that each rank keeps
  std::vector<RankGroups> groups;
  std::vector<std::pair<std::string, int64_t>> world;  // what all ranks do together
  int node = 8;                                        // ranks of one, drawn as a row
};

// SVG for light and dark pages; bytes depend on the picture alone.
std::string rank_picture_svg(const RankPicture& picture);

}  // namespace conclave::plan
