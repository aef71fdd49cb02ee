#include "ops/attention_cuda.h"

#include <ATen/Context.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "kernels/attention_sink.h"
#include "ops/attention_cudnn_cuda.h"

namespace conclave::ops::cuda {
namespace {

struct Documents {
  int64_t count, length;  // length: of each document, 0 where they differ
  int64_t most_queries = 0, most_keys = 0;
  bool same_keys = true;  // a document has as many keys as queries
};

Documents documents_of(std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets) {
  Documents d{static_cast<int64_t>(q_offsets.size()) - 1, 0};
  bool equal = true;
  for (int64_t i = 0; i < d.count; ++i) {
    const int64_t queries = q_offsets[i + 1] - q_offsets[i], keys = k_offsets[i + 1] - k_offsets[i];
    equal &= queries == q_offsets[1] - q_offsets[0];
    d.most_queries = std::max(d.most_queries, queries);
    d.most_keys = std::max(d.most_keys, keys);
    d.same_keys &= queries == keys;
  }
  if (equal) d.length = d.most_queries;
  return d;
}

enum class AttentionWay { cudnn, flash, math };

bool deterministic() { return at::globalContext().deterministicAlgorithms(); }

CudnnAttention cudnn_attention(const at::Tensor& q, const at::Tensor& v, const Documents& d,
                               const AttentionOptions& options) {
  return {.documents = d.count,
          .length = d.length,
          .heads = q.size(1),
          .kv_heads = v.size(1),
          .head_dim = q.size(2),
          .v_dim = v.size(2),
          .scale = options.scale,
          .window = options.window < d.most_keys ? options.window : 0,
          .sinks = options.sinks.defined(),
          .deterministic = deterministic()};
}

// The backward may go another way than the forward: cuDNN's deterministic one takes the time of all
// keys where a window leaves few of them.
AttentionWay way_of(const at::Tensor& q, const at::Tensor& v, const Documents& d,
                    const AttentionOptions& options, bool backward) {
  const int64_t head_dim = q.size(2), v_dim = v.size(2);
  if (q.scalar_type() != at::kBFloat16 || std::max(head_dim, v_dim) > 256)
    return AttentionWay::math;
  const bool dims = (head_dim == v_dim && head_dim <= 128 && head_dim % 8 == 0) ||
                    (head_dim == 192 && v_dim == 128);
  if (!dims || !d.same_keys || d.length == 0 || d.length % 64 > 0) return AttentionWay::flash;
  const CudnnAttention n = cudnn_attention(q, v, d, options);
  const bool has =
      backward ? !(n.deterministic && n.window > 0) && has_cudnn_backward(n) : has_cudnn_forward(n);
  return has ? AttentionWay::cudnn : AttentionWay::flash;
}

// Offsets as int32 on the device. Those of equal documents are counted there. Others are copied,
// the last two sets kept: all layers of a micro-batch ask for the same. (Leaked at exit: CUDA may
// be gone before static tensors are.)
at::Tensor offsets_on_device(std::span<const int64_t> offsets, const Documents& d,
                             int64_t equal_length, const at::Tensor& like) {
  const at::TensorOptions options = like.options().dtype(at::kInt);
  if (equal_length > 0) return at::arange(0, equal_length * d.count + 1, equal_length, options);
  struct Kept {
    std::vector<int64_t> offsets;
    at::Tensor on_device;
  };
  static thread_local auto* kept = new std::array<Kept, 2>;
  static thread_local size_t oldest = 0;
  for (const Kept& k : *kept)
    if (k.on_device.defined() && k.on_device.device() == like.device() &&
        std::equal(k.offsets.begin(), k.offsets.end(), offsets.begin(), offsets.end()))
      return k.on_device;
  at::Tensor host = at::empty({static_cast<int64_t>(offsets.size())},
                              at::TensorOptions().dtype(at::kInt).pinned_memory(true));
  std::copy(offsets.begin(), offsets.end(), host.data_ptr<int32_t>());
  Kept& to = (*kept)[oldest];
  oldest = 1 - oldest;
  to = {{offsets.begin(), offsets.end()}, host.to(like.device(), /*non_blocking=*/true)};
  return to.on_device;
}

// ATen's flash attention 2, without sinks. out [tokens, heads, dim ≥ v_dim] and lse [heads, tokens]
// are contiguous.
class Flash {
 public:
  Flash(const Documents& d, std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
        const at::Tensor& q, const at::Tensor& v, const AttentionOptions& options)
      : d_(d), scale_(options.scale), dim_((std::max(q.size(2), v.size(2)) + 7) / 8 * 8) {
    const int64_t equal = d.same_keys ? d.length : 0;
    q_offsets_ = offsets_on_device(q_offsets, d, equal, q);
    k_offsets_ = d.same_keys ? q_offsets_ : offsets_on_device(k_offsets, d, 0, q);
    if (options.window > 0) left_ = options.window - 1, right_ = 0;
    // With one query a document ATen lays out its lse otherwise; 2 is an upper bound as well.
    most_queries_ = std::max<int64_t>(d.most_queries, 2);
    most_keys_ = std::max<int64_t>(d.most_keys, 2);
  }

  Attention forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
    const auto all = at::_flash_attention_forward(
        padded(q), padded(k), padded(v), q_offsets_, k_offsets_, most_queries_, most_keys_,
        /*dropout_p=*/0.,
        /*is_causal=*/true, /*return_debug_mask=*/false, scale_, left_, right_);
    const at::Tensor &out = std::get<0>(all), &lse = std::get<1>(all);
    TORCH_CHECK(lse.dim() == 2 && lse.size(0) == q.size(1) && lse.size(1) == q.size(0),
                "attention: expected flash attention's lse [heads, tokens] = [", q.size(1), ", ",
                q.size(0), "], got ", lse.sizes());
    return {out.contiguous(), lse.contiguous()};
  }

  AttentionGrad backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse) const {
    const at::Tensor state = at::empty({2}, q.options().dtype(at::kUInt64)),
                     unused =
                         at::empty({}, q.options().dtype(at::kUInt64));  // of a dropout that is off
    const auto [dq, dk, dv] = at::_flash_attention_backward(
        padded(dout), padded(q), padded(k), padded(v), padded(out), lse, q_offsets_, k_offsets_,
        most_queries_, most_keys_, /*dropout_p=*/0., /*is_causal=*/true, state, unused, scale_,
        left_, right_);
    return {cut(dq, q), cut(dk, k), cut(dv, v), {}};
  }

 private:
  at::Tensor padded(const at::Tensor& t) const {
    return t.size(2) == dim_ ? t : at::constant_pad_nd(t, {0, dim_ - t.size(2)});
  }
  static at::Tensor cut(const at::Tensor& t, const at::Tensor& like) {
    return t.slice(2, 0, like.size(2)).contiguous();
  }

  const Documents& d_;
  double scale_;
  int64_t dim_;
  at::Tensor q_offsets_, k_offsets_;
  std::optional<int64_t> left_, right_;
  int64_t most_queries_, most_keys_;
};

at::Tensor sinks_in_floats(const AttentionOptions& options) {
  return options.sinks.to(at::kFloat).contiguous();
}

}  // namespace

Attention attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    std::span<const int64_t> q_offsets, std::span<const int64_t> k_offsets,
                    const AttentionOptions& options) {
  const Documents d = documents_of(q_offsets, k_offsets);
  const AttentionWay way = way_of(q, v, d, options, /*backward=*/false);
  if (way == AttentionWay::math || q.size(0) == 0)
    return attention_math(q, k, v, q_offsets, k_offsets, options);
  if (way == AttentionWay::cudnn)
    return cudnn_forward(cudnn_attention(q, v, d, options), q, k, v,
                         options.sinks.defined() ? sinks_in_floats(options) : at::Tensor());
  Attention to = Flash(d, q_offsets, k_offsets, q, v, options).forward(q, k, v);
  if (options.sinks.defined()) {
    const at::Tensor sinks = sinks_in_floats(options);
    kernels::attention_sink(to.out.data_ptr(), to.lse.data_ptr<float>(),
                            sinks.const_data_ptr<float>(), to.out.size(0),
                            static_cast<int>(to.out.size(1)), static_cast<int>(to.out.size(2)),
                            c10::cuda::getCurrentCUDAStream());
  }
  to.out = to.out.slice(2, 0, v.size(2)).contiguous();
  return to;
}

AttentionGrad attention_backward(const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v, const at::Tensor& out, const at::Tensor& lse,
                                 std::span<const int64_t> q_offsets,
                                 std::span<const int64_t> k_offsets,
                                 const AttentionOptions& options) {
  const Documents d = documents_of(q_offsets, k_offsets);
  const AttentionWay way = way_of(q, v, d, options, /*backward=*/true);
  if (way == AttentionWay::math || q.size(0) == 0)
    return attention_math_backward(dout, q, k, v, out, lse, q_offsets, k_offsets, options);
  AttentionGrad to =
      way == AttentionWay::cudnn
          ? cudnn_backward(cudnn_attention(q, v, d, options), dout, q, k, v, out, lse)
          : Flash(d, q_offsets, k_offsets, q, v, options).backward(dout, q, k, v, out, lse);
  if (options.sinks.defined()) {
    auto even = [](const at::Tensor& t) {
      return t.size(2) % 2 == 0 ? t : at::constant_pad_nd(t, {0, 1});
    };
    const at::Tensor sinks = sinks_in_floats(options), with = even(dout), from = even(out);
    const at::Tensor terms = at::empty(lse.sizes(), lse.options());
    kernels::attention_sink_backward(terms.data_ptr<float>(), with.const_data_ptr(),
                                     from.const_data_ptr(), lse.const_data_ptr<float>(),
                                     sinks.const_data_ptr<float>(), q.size(0),
                                     static_cast<int>(q.size(1)), static_cast<int>(with.size(2)),
                                     c10::cuda::getCurrentCUDAStream());
    to.dsinks = terms.sum(1);
  }
  return to;
}

}  // namespace conclave::ops::cuda
