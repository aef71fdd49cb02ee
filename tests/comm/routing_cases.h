// Routings that the tests of dispatchers between ranks share.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/topk.h>

#include <tuple>
#include <vector>

namespace conclave::comm {

struct RoutingCase {
  const char* name;
  std::vector<int64_t> tokens;  // of each rank
  int64_t experts, top_k;
  int64_t hottest = -1;  // an expert that every token names
  int64_t from = 0;      // experts below are named by no token
};
inline const std::vector<RoutingCase> kRoutingCases = {
    {"two ranks", {5, 5}, 4, 2},
    {"uneven", {3, 8}, 8, 3},
    {"one rank without tokens", {4, 0, 6}, 6, 2},
    {"top 1", {6, 1, 2, 5}, 8, 1},
    {"all experts", {2, 3}, 4, 4},
    {"one hot expert", {6, 7, 5}, 9, 2, 4},
    {"empty experts and an empty rank", {6, 6, 6, 6}, 16, 3, -1, 8},
    {"six ranks", {3, 2, 4, 1, 5, 2}, 24, 4},
    {"eight ranks", {2, 2, 2, 2, 2, 2, 2, 2}, 24, 8}};

// ids [tokens, top_k] of random tokens of that kind.
inline at::Tensor draw_ids(const RoutingCase& c, int64_t tokens) {
  at::Tensor score = at::rand({tokens, c.experts}, at::kDouble);
  if (c.hottest >= 0) score.select(1, c.hottest).fill_(2);
  if (c.from > 0) score.narrow(1, 0, c.from).fill_(-1);
  return std::get<1>(score.topk(c.top_k));
}

}  // namespace conclave::comm
