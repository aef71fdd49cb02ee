#include "ops/attention_cudnn_cuda.h"

#include <ATen/cudnn/Handle.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/util/Exception.h>
#include <cudnn_frontend.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <unordered_map>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where its headers look for cuDNN's functions
}

namespace conclave::ops::cuda {
namespace {
namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;

enum Operand : int64_t { kQ = 1, kK, kV, kOut, kDout, kStats, kDq, kDk, kDv };

// Some of n's documents, or some heads of one of them.
struct Turn {
  CudnnAttention n;
  int64_t documents, heads, kv_heads;
  auto operator<=>(const Turn&) const = default;
};

std::optional<Turn> turn_of(const CudnnAttention& n, int64_t scores) {
  const int64_t head = 2 * n.length * n.length, group = n.heads / n.kv_heads;
  if (const int64_t most = scores / (n.heads * head); most > 0) {
    const int64_t turns = (n.documents + most - 1) / most;
    return Turn{n, (n.documents + turns - 1) / turns, n.heads, n.kv_heads};
  }
  const int64_t most = scores / (group * head);
  if (most == 0) return std::nullopt;
  const int64_t turns = (n.kv_heads + most - 1) / most, kv_heads = (n.kv_heads + turns - 1) / turns;
  return Turn{n, 1, group * kv_heads, kv_heads};
}

// libtorch has both libraries loaded. Left alone, the headers take an older CUDA runtime where
// there is one.
void load_cudnn() {
  if (fe::cudnn_dlhandle) return;
  setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", "libcudart.so.13", /*overwrite=*/0);
  fe::cudnn_dlhandle = dlopen("libcudnn.so.9", RTLD_NOW);
  TORCH_CHECK(fe::cudnn_dlhandle, "cuDNN: expected libcudnn.so.9, which libtorch uses, got ",
              dlerror());
}

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;  // none where cuDNN has none for it
  int64_t workspace = 0;
};

// Of a turn's part of t, whose rows hold `all` heads: [documents, heads, length, dim].
Tensor_attributes part(Operand uid, const Turn& t, int64_t heads, int64_t all, int64_t dim) {
  return Tensor_attributes()
      .set_uid(uid)
      .set_dim({t.documents, heads, t.n.length, dim})
      .set_stride({t.n.length * all * dim, dim, all * dim, 1});
}

Plan make_plan(const Turn& t) {
  const CudnnAttention& n = t.n;
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const auto q = part(kQ, t, t.heads, n.heads, n.head_dim),
             k = part(kK, t, t.kv_heads, n.kv_heads, n.head_dim),
             v = part(kV, t, t.kv_heads, n.kv_heads, n.v_dim),
             out = part(kOut, t, t.heads, n.heads, n.v_dim),
             dout = part(kDout, t, t.heads, n.heads, n.v_dim);
  const auto stats = Tensor_attributes()
                         .set_uid(kStats)
                         .set_dim({t.documents, t.heads, n.length, 1})
                         .set_stride({t.heads * n.length, n.length, 1, 1})
                         .set_data_type(fe::DataType_t::FLOAT);
  const auto options = fe::graph::SDPA_backward_attributes()
                           .set_name("attention_backward")
                           .set_attn_scale(static_cast<float>(n.scale))
                           .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                           .set_diagonal_band_right_bound(0)
                           .set_deterministic_algorithm(true);
  const auto [dq, dk, dv] =
      graph->sdpa_backward(graph->tensor(q), graph->tensor(k), graph->tensor(v), graph->tensor(out),
                           graph->tensor(dout), graph->tensor(stats), options);
  auto result = [](const std::shared_ptr<Tensor_attributes>& to, Operand uid,
                   const Tensor_attributes& like) {
    to->set_output(true).set_uid(uid).set_dim(like.get_dim()).set_stride(like.get_stride());
  };
  result(dq, kDq, q);
  result(dk, kDk, k);
  result(dv, kDv, v);
  if (auto built = graph->build(at::native::getCudnnHandle(), {fe::HeurMode_t::A});
      built.is_bad()) {
    TORCH_WARN("deterministic attention by flash attention 2: cuDNN has no backward for ",
               t.documents, " documents of ", n.length, " tokens, ", t.heads, " heads of ",
               n.head_dim, " and ", n.v_dim, ", ", t.kv_heads, " of keys: ", built.get_message());
    return {};
  }
  return {graph, graph->get_workspace_size()};
}

// Plans belong to a device; threads have handles of their own. (Leaked at exit, as what is on the
// device must not outlive CUDA.)
const Plan& plan_of(const Turn& t) {
  static thread_local auto* plans = new std::map<std::tuple<int, Turn>, Plan>;
  const std::tuple key{static_cast<int>(c10::cuda::current_device()), t};
  auto it = plans->find(key);
  if (it == plans->end()) {
    load_cudnn();
    it = plans->emplace(key, make_plan(t)).first;
  }
  return it->second;
}

// The last documents or heads may be fewer.
template <class F>
void each_turn(const Turn& t, const F& f) {
  const int64_t group = t.n.heads / t.n.kv_heads;
  for (int64_t d = 0; d < t.n.documents; d += t.documents)
    for (int64_t h = 0; h < t.n.kv_heads; h += t.kv_heads) {
      const int64_t kv_heads = std::min(t.kv_heads, t.n.kv_heads - h);
      f(Turn{t.n, std::min(t.documents, t.n.documents - d), group * kv_heads, kv_heads}, d, h);
    }
}

}  // namespace

bool has_deterministic_cudnn(const CudnnAttention& n, int64_t scores) {
  const auto turn = turn_of(n, scores);
  if (!turn) {
    TORCH_WARN_ONCE("deterministic attention by flash attention 2: documents of ", n.length,
                    " tokens are too long for cuDNN's, whose scores take ", scores,
                    " bytes at most");
    return false;
  }
  bool has = true;
  each_turn(*turn, [&](const Turn& t, int64_t, int64_t) { has = has && plan_of(t).graph; });
  return has;
}

AttentionGrad deterministic_cudnn_backward(const CudnnAttention& n, const at::Tensor& dout,
                                           const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v, const at::Tensor& out,
                                           const at::Tensor& stats, int64_t scores) {
  const Turn turn = turn_of(n, scores).value();
  AttentionGrad to{at::empty_like(q), at::empty_like(k), at::empty_like(v), {}};
  int64_t most = 0;
  each_turn(turn,
            [&](const Turn& t, int64_t, int64_t) { most = std::max(most, plan_of(t).workspace); });
  const at::Tensor workspace = at::empty({most}, q.options().dtype(at::kByte));
  each_turn(turn, [&](const Turn& t, int64_t document, int64_t kv_head) {
    // Where a turn's part of [documents · length, heads, dim] begins.
    auto at = [&](const at::Tensor& x, bool keys) -> void* {
      const int64_t head = keys ? kv_head : kv_head * (n.heads / n.kv_heads);
      return x.data_ptr<at::BFloat16>() + document * n.length * x.stride(0) + head * x.stride(1);
    };
    const int64_t row = (document * n.heads + kv_head * (n.heads / n.kv_heads)) * n.length;
    std::unordered_map<int64_t, void*> operands{
        {kQ, at(q, false)},      {kK, at(k, true)},        {kV, at(v, true)},
        {kOut, at(out, false)},  {kDout, at(dout, false)}, {kStats, stats.data_ptr<float>() + row},
        {kDq, at(to.dq, false)}, {kDk, at(to.dk, true)},   {kDv, at(to.dv, true)}};
    auto status =
        plan_of(t).graph->execute(at::native::getCudnnHandle(), operands, workspace.data_ptr());
    TORCH_CHECK(status.is_good(), "cuDNN's deterministic attention: ", status.get_message());
  });
  return to;
}

}  // namespace conclave::ops::cuda
