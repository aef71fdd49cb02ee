#include "ops/router.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <limits>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "ops/device.h"
#include "ops/router_cuda.h"
#include "ops/router_rows.h"

namespace conclave::ops {
namespace {

// The k largest by insertion, in falling order; a later one must be truly larger to pass an earlier
// one. With NaN the choice means nothing, but the ids are distinct.
template <class A>
class Best {
 public:
  Best(int64_t* ids, A* scores, int64_t k) : ids_(ids), scores_(scores), k_(k) {}
  void offer(int64_t id, A score) {
    if (count_ == k_) {
      if (!(score > scores_[k_ - 1])) return;
    } else {
      ++count_;
    }
    int64_t place = count_ - 1;
    for (; place > 0 && score > scores_[place - 1]; --place)
      scores_[place] = scores_[place - 1], ids_[place] = ids_[place - 1];
    scores_[place] = score, ids_[place] = id;
  }

 private:
  int64_t* ids_;
  A* scores_;
  int64_t k_, count_ = 0;
};

// Room for one token, made once a block of them.
template <class A>
struct Scratch {
  Scratch(int64_t experts, const Selection& s)
      : scores(experts), biased(experts), sums(s.top_groups), groups(s.top_groups) {}
  std::vector<A> scores, biased, sums;
  std::vector<int64_t> groups;
};

// The experts of the top_groups groups with the largest sums of their two best, offered in order of
// their ids; the others are not looked at.
template <class A>
void offer_groups(Best<A>& best, Scratch<A>& room, int64_t experts, const Selection& s) {
  const int64_t size = experts / s.groups;
  Best<A> best_groups(room.groups.data(), room.sums.data(), s.top_groups);
  for (int64_t g = 0; g < s.groups; ++g) {
    A first = -std::numeric_limits<A>::infinity(), second = first;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      const A score = room.biased[e];
      if (score > first)
        second = first, first = score;
      else if (score > second)
        second = score;
    }
    best_groups.offer(g, first + second);
  }
  std::sort(room.groups.begin(), room.groups.end());
  for (int64_t g : room.groups)
    for (int64_t e = g * size; e < (g + 1) * size; ++e) best.offer(e, room.biased[e]);
}

// room.scores from logits, and the choice from them; `weights` is room for the chosen scores.
template <class A>
void choose_row(int64_t* ids, A* weights, Scratch<A>& room, const A* logits, const A* bias,
                int64_t experts, const Selection& s) {
  Best<A> best(ids, weights, s.top_k);
  const A* from = room.scores.data();
  if (s.scoring == Scoring::top_k_then_softmax) from = logits;
  if (s.scoring == Scoring::sigmoid && bias) {
    from = room.biased.data();
    for (int64_t e = 0; e < experts; ++e) room.biased[e] = room.scores[e] + bias[e];
  } else if (s.groups > 1) {
    std::copy_n(from, experts, room.biased.data());
  }
  if (s.groups > 1)
    offer_groups(best, room, experts, s);
  else
    for (int64_t e = 0; e < experts; ++e) best.offer(e, from[e]);
}

}  // namespace

void check_selection(const Selection& s, int64_t experts) {
  TORCH_CHECK(s.top_k >= 1 && s.top_k <= experts, "top_k: expected 1 … ", experts, ", got ",
              s.top_k);
  TORCH_CHECK(s.groups >= 1 && s.top_groups >= 1 && s.top_groups <= s.groups,
              "top_groups: expected 1 … groups = ", s.groups, ", got ", s.top_groups);
  if (s.groups == 1) return;
  TORCH_CHECK(s.scoring == Scoring::sigmoid, "groups: expected 1 without sigmoid scores, got ",
              s.groups);
  TORCH_CHECK(experts % s.groups == 0 && experts / s.groups >= 2,
              "groups: expected equal ones of at least 2 of the ", experts, " experts, got ",
              s.groups);
  TORCH_CHECK(s.top_k <= s.top_groups * (experts / s.groups), "top_k: expected at most the ",
              s.top_groups * (experts / s.groups), " experts of ", s.top_groups, " groups, got ",
              s.top_k);
}

Routing route(const at::Tensor& logits, const at::Tensor& correction_bias,
              const Selection& selection, const at::Tensor& given) {
  TORCH_CHECK(logits.dim() == 2, "logits: expected [tokens, experts], got ", logits.sizes());
  const int64_t tokens = logits.size(0), experts = logits.size(1), top_k = selection.top_k;
  CHECK_SHAPE(logits, tokens, experts);
  check_selection(selection, experts);
  if (correction_bias.defined()) {
    TORCH_CHECK(selection.scoring == Scoring::sigmoid,
                "correction_bias: expected none without sigmoid scores");
    CHECK_SHAPE(correction_bias, experts);
    CHECK_DTYPE(correction_bias, logits.scalar_type());
  }
  if (given.defined()) {
    CHECK_SHAPE(given, tokens, top_k);
    CHECK_DTYPE(given, at::kLong);
  }
  if constexpr (kCudaBuild)
    if (logits.is_cuda()) return cuda::route(logits, correction_bias, selection, given);
  Routing out{given, at::empty({tokens, top_k}, logits.options()), {}};
  if (given.defined())
    out.loads = loads_of(given, experts);
  else
    out.ids = at::empty({tokens, top_k}, logits.options().dtype(at::kLong));
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "route", [&] {
    const scalar_t* from = logits.const_data_ptr<scalar_t>();
    const scalar_t* bias =
        correction_bias.defined() ? correction_bias.const_data_ptr<scalar_t>() : nullptr;
    scalar_t* w = out.weights.data_ptr<scalar_t>();
    int64_t* ids = given.defined() ? nullptr : out.ids.data_ptr<int64_t>();
    const int64_t* chosen = out.ids.const_data_ptr<int64_t>();
    each_token_block(tokens, experts * (8 + top_k), [&](int64_t first, int64_t last) {
      Scratch<scalar_t> room(experts, selection);
      for (int64_t t = first; t < last; ++t) {
        const scalar_t* l = from + t * experts;
        scalar_t* mine = w + t * top_k;
        score_row(room.scores.data(), l, experts, selection.scoring);
        if (ids) choose_row(ids + t * top_k, mine, room, l, bias, experts, selection);
        weigh_row(mine, chosen + t * top_k, room.scores.data(), l, selection);
        for (int64_t j = 0; j < top_k; ++j) mine[j] *= scalar_t(selection.scale);
      }
    });
  });
  if (!given.defined()) out.loads = loads_of(out.ids, experts);
  return out;
}

at::Tensor loads_of(const at::Tensor& ids, int64_t experts) {
  CHECK_DTYPE(ids, at::kLong);
  if constexpr (kCudaBuild)
    if (ids.is_cuda()) return cuda::loads_of(ids, experts);
  at::Tensor loads = at::zeros({experts}, ids.options());
  count_loads(loads.data_ptr<int64_t>(), ids.const_data_ptr<int64_t>(), ids.numel(), experts);
  return loads;
}

at::Tensor balanced_ids(int64_t tokens, int64_t top_k, int64_t experts, at::Device device) {
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::balanced_ids(tokens, top_k, experts, device);
  at::Tensor ids = at::empty({tokens, top_k}, at::kLong);
  int64_t* id = ids.data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens * top_k; ++i) id[i] = i % experts;
  return ids;
}

at::Tensor uniform_ids(int64_t tokens, int64_t top_k, int64_t experts, uint64_t seed,
                       uint64_t stream, at::Device device) {
  TORCH_CHECK(top_k >= 1 && top_k <= experts, "top_k: expected 1 … ", experts, ", got ", top_k);
  if constexpr (kCudaBuild)
    if (device.is_cuda()) return cuda::uniform_ids(tokens, top_k, experts, seed, stream, device);
  at::Tensor ids = at::empty({tokens, top_k}, at::kLong);
  int64_t* id = ids.data_ptr<int64_t>();
  // Floyd's sampling (Bentley, CACM 30(9), 1987): the j-th draw comes from the first
  // experts − top_k + j + 1; one that is there already stands for the last of them.
  each_block(tokens, top_k * (20 + top_k), [&](int64_t t) {
    int64_t* mine = id + t * top_k;
    for (int64_t j = 0; j < top_k; ++j) {
      const int64_t last = experts - top_k + j;
      const auto drawn = static_cast<int64_t>(below(static_cast<uint64_t>(last + 1), seed, stream,
                                                    static_cast<uint64_t>(t * top_k + j)));
      mine[j] = std::find(mine, mine + j, drawn) == mine + j ? drawn : last;
    }
  });
  return ids;
}

}  // namespace conclave::ops
