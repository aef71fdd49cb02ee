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
#include <vector>

namespace cudnn_frontend {
void* cudnn_dlhandle = nullptr;  // where its headers look for cuDNN's functions
}

namespace conclave::ops::cuda {
namespace {
namespace fe = cudnn_frontend;
using fe::graph::Tensor_attributes;

enum Operand : int64_t { kQ = 1, kK, kV, kOut, kStats, kSinks, kDout, kDq, kDk, kDv };
using Operands = std::unordered_map<int64_t, void*>;

// Some of n's documents, or some heads of one of them, forward or backward.
struct Turn {
  CudnnAttention n;
  int64_t documents, heads, kv_heads;
  bool backward;
  auto operator<=>(const Turn&) const = default;
};

Turn forward_of(CudnnAttention n) {
  n.deterministic = false;
  return {n, n.documents, n.heads, n.kv_heads, false};
}

std::optional<Turn> backward_of(CudnnAttention n, int64_t scores) {
  n.sinks = false;  // out and lse, which have them, say it all
  if (!n.deterministic) return Turn{n, n.documents, n.heads, n.kv_heads, true};
  const int64_t head = 2 * n.length * n.length, group = n.heads / n.kv_heads;
  if (const int64_t most = scores / (n.heads * head); most > 0) {
    const int64_t turns = (n.documents + most - 1) / most;
    return Turn{n, (n.documents + turns - 1) / turns, n.heads, n.kv_heads, true};
  }
  const int64_t most = scores / (group * head);
  if (most == 0) return std::nullopt;
  const int64_t turns = (n.kv_heads + most - 1) / most, kv_heads = (n.kv_heads + turns - 1) / turns;
  return Turn{n, 1, group * kv_heads, kv_heads, true};
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

// The operands of a turn as a graph sees them: [documents, heads, length, dim], parts of [documents
// · length, all heads, dim].
struct Layouts {
  explicit Layouts(const Turn& t) : t(t) {}

  Tensor_attributes queries(Operand uid, int64_t dim) const {
    return rows(uid, t.heads, t.n.heads, dim);
  }
  Tensor_attributes keys(Operand uid, int64_t dim) const {
    return rows(uid, t.kv_heads, t.n.kv_heads, dim);
  }
  // The forward writes [heads, tokens], the backward reads [documents, heads, length].
  Tensor_attributes stats() const {
    const int64_t length = t.n.length;
    const std::vector<int64_t> forward{length, t.documents * length, 1, 1},
        backward{t.heads * length, length, 1, 1};
    return Tensor_attributes()
        .set_uid(kStats)
        .set_dim({t.documents, t.heads, length, 1})
        .set_stride(t.backward ? backward : forward)
        .set_data_type(fe::DataType_t::FLOAT);
  }
  Tensor_attributes sinks() const {
    return Tensor_attributes()
        .set_uid(kSinks)
        .set_dim({1, t.heads, 1, 1})
        .set_stride({t.heads, 1, 1, 1})
        .set_data_type(fe::DataType_t::FLOAT);
  }

  const Turn& t;

 private:
  Tensor_attributes rows(Operand uid, int64_t heads, int64_t all, int64_t dim) const {
    return Tensor_attributes()
        .set_uid(uid)
        .set_dim({t.documents, heads, t.n.length, dim})
        .set_stride({t.n.length * all * dim, dim, all * dim, 1})
        .set_data_type(fe::DataType_t::BFLOAT16);
  }
};

void is_result(const std::shared_ptr<Tensor_attributes>& t, const Tensor_attributes& as) {
  t->set_output(true).set_uid(as.get_uid()).set_data_type(as.get_data_type());
  t->set_dim(as.get_dim()).set_stride(as.get_stride());
}

void add_forward(fe::graph::Graph& graph, const Turn& t) {
  const Layouts as(t);
  auto options = fe::graph::SDPA_attributes()
                     .set_name("attention")
                     .set_generate_stats(true)
                     .set_attn_scale(static_cast<float>(t.n.scale))
                     .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                     .set_diagonal_band_right_bound(0);
  if (t.n.window > 0) options.set_diagonal_band_left_bound(static_cast<int>(t.n.window));
  if (t.n.sinks) options.set_sink_token(graph.tensor(as.sinks()));
  const auto [out, stats] = graph.sdpa(graph.tensor(as.queries(kQ, t.n.head_dim)),
                                       graph.tensor(as.keys(kK, t.n.head_dim)),
                                       graph.tensor(as.keys(kV, t.n.v_dim)), options);
  is_result(out, as.queries(kOut, t.n.v_dim));
  is_result(stats, as.stats());
}

void add_backward(fe::graph::Graph& graph, const Turn& t) {
  const Layouts as(t);
  auto options = fe::graph::SDPA_backward_attributes()
                     .set_name("attention_backward")
                     .set_attn_scale(static_cast<float>(t.n.scale))
                     .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                     .set_diagonal_band_right_bound(0)
                     .set_deterministic_algorithm(t.n.deterministic);
  if (t.n.window > 0) options.set_diagonal_band_left_bound(static_cast<int>(t.n.window));
  const auto [dq, dk, dv] = graph.sdpa_backward(
      graph.tensor(as.queries(kQ, t.n.head_dim)), graph.tensor(as.keys(kK, t.n.head_dim)),
      graph.tensor(as.keys(kV, t.n.v_dim)), graph.tensor(as.queries(kOut, t.n.v_dim)),
      graph.tensor(as.queries(kDout, t.n.v_dim)), graph.tensor(as.stats()), options);
  is_result(dq, as.queries(kDq, t.n.head_dim));
  is_result(dk, as.keys(kDk, t.n.head_dim));
  is_result(dv, as.keys(kDv, t.n.v_dim));
}

struct Plan {
  std::shared_ptr<fe::graph::Graph> graph;  // none where cuDNN has none for it
  int64_t workspace = 0;

  void run(Operands operands, const at::Tensor& workspace) const {
    auto status = graph->execute(at::native::getCudnnHandle(), operands, workspace.data_ptr());
    TORCH_CHECK(status.is_good(), "cuDNN's attention: ", status.get_message());
  }
};

Plan make_plan(const Turn& t) {
  auto graph = std::make_shared<fe::graph::Graph>();
  graph->set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  t.backward ? add_backward(*graph, t) : add_forward(*graph, t);
  auto built = graph->build(at::native::getCudnnHandle(), {fe::HeurMode_t::A});
  if (built.is_good()) return {graph, graph->get_workspace_size()};
  TORCH_WARN("flash attention 2 in place of cuDNN's, which has no ",
             !t.backward         ? "forward"
             : t.n.deterministic ? "deterministic backward"
                                 : "backward",
             " for ", t.documents, " documents of ", t.n.length, " tokens, ", t.heads, " heads of ",
             t.n.head_dim, " and ", t.n.v_dim, " (keys: ", t.kv_heads, "), window ", t.n.window,
             ": ", built.get_message());
  return {};
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

// f(turn, its first document, its first head of keys). The last documents or heads may be fewer.
template <class F>
void each_turn(const Turn& t, const F& f) {
  const int64_t group = t.n.heads / t.n.kv_heads;
  for (int64_t d = 0; d < t.n.documents; d += t.documents)
    for (int64_t h = 0; h < t.n.kv_heads; h += t.kv_heads) {
      Turn now = t;
      now.documents = std::min(t.documents, t.n.documents - d);
      now.kv_heads = std::min(t.kv_heads, t.n.kv_heads - h);
      now.heads = group * now.kv_heads;
      f(now, d, h);
    }
}

}  // namespace

bool has_cudnn_forward(const CudnnAttention& n) { return plan_of(forward_of(n)).graph != nullptr; }

bool has_cudnn_backward(const CudnnAttention& n, int64_t scores) {
  const auto turn = backward_of(n, scores);
  if (!turn) {
    TORCH_WARN_ONCE("deterministic attention by flash attention 2: documents of ", n.length,
                    " tokens are too long for cuDNN's, whose scores may take ", scores, " bytes");
    return false;
  }
  bool has = true;
  each_turn(*turn, [&](const Turn& t, int64_t, int64_t) { has = has && plan_of(t).graph; });
  return has;
}

Attention cudnn_forward(const CudnnAttention& n, const at::Tensor& q, const at::Tensor& k,
                        const at::Tensor& v, const at::Tensor& sinks) {
  const int64_t tokens = n.documents * n.length;
  Attention to{at::empty({tokens, n.heads, n.v_dim}, q.options()),
               at::empty({n.heads, tokens}, q.options().dtype(at::kFloat))};
  const Plan& plan = plan_of(forward_of(n));
  Operands operands{{kQ, q.data_ptr()},
                    {kK, k.data_ptr()},
                    {kV, v.data_ptr()},
                    {kOut, to.out.data_ptr()},
                    {kStats, to.lse.data_ptr()}};
  if (n.sinks) operands.emplace(kSinks, sinks.data_ptr());
  plan.run(operands, at::empty({plan.workspace}, q.options().dtype(at::kByte)));
  return to;
}

AttentionGrad cudnn_backward(const CudnnAttention& n, const at::Tensor& dout, const at::Tensor& q,
                             const at::Tensor& k, const at::Tensor& v, const at::Tensor& out,
                             const at::Tensor& lse, int64_t scores) {
  const Turn all = backward_of(n, scores).value();
  AttentionGrad to{at::empty_like(q), at::empty_like(k), at::empty_like(v), {}};
  int64_t most = 0;
  each_turn(all,
            [&](const Turn& t, int64_t, int64_t) { most = std::max(most, plan_of(t).workspace); });
  const at::Tensor stats = lse.view({n.heads, n.documents, n.length}).transpose(0, 1).contiguous();
  const at::Tensor workspace = at::empty({most}, q.options().dtype(at::kByte));
  each_turn(all, [&](const Turn& t, int64_t document, int64_t kv_head) {
    const int64_t head = kv_head * (n.heads / n.kv_heads), token = document * n.length;
    auto queries = [&](const at::Tensor& x) -> void* {
      return x.data_ptr<at::BFloat16>() + token * x.stride(0) + head * x.stride(1);
    };
    auto keys = [&](const at::Tensor& x) -> void* {
      return x.data_ptr<at::BFloat16>() + token * x.stride(0) + kv_head * x.stride(1);
    };
    float* of_stats = stats.data_ptr<float>() + (document * n.heads + head) * n.length;
    plan_of(t).run({{kQ, queries(q)},
                    {kK, keys(k)},
                    {kV, keys(v)},
                    {kOut, queries(out)},
                    {kDout, queries(dout)},
                    {kStats, of_stats},
                    {kDq, queries(to.dq)},
                    {kDk, keys(to.dk)},
                    {kDv, keys(to.dv)}},
                   workspace);
  });
  return to;
}

}  // namespace conclave::ops::cuda
