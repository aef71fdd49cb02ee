#include "recipes/gpu_rates_cuda.h"

#include <ATen/ops/_cudnn_attention_backward.h>
#include <ATen/ops/_cudnn_attention_forward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace conclave::recipes::cuda {
namespace {

at::TensorOptions bf16() { return at::TensorOptions().dtype(at::kBFloat16).device(at::kCUDA); }

// Seconds of one call: the median of twenty, queued back to back.
double seconds_of(const std::function<void()>& f) {
  constexpr int kWarm = 5, kTimed = 20;
  std::vector<cudaEvent_t> events(2 * kTimed);
  for (auto& e : events) C10_CUDA_CHECK(cudaEventCreate(&e));
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  for (int i = 0; i < kWarm; ++i) f();
  for (size_t i = 0; i < kTimed; ++i) {
    C10_CUDA_CHECK(cudaEventRecord(events[2 * i], stream));
    f();
    C10_CUDA_CHECK(cudaEventRecord(events[2 * i + 1], stream));
  }
  c10::cuda::device_synchronize();
  std::vector<float> ms(kTimed);
  for (size_t i = 0; i < kTimed; ++i)
    C10_CUDA_CHECK(cudaEventElapsedTime(&ms[i], events[2 * i], events[2 * i + 1]));
  for (auto& e : events) C10_CUDA_CHECK(cudaEventDestroy(e));
  std::nth_element(ms.begin(), ms.begin() + kTimed / 2, ms.end());
  return 1e-3 * ms[kTimed / 2];
}

}  // namespace

double gemm_rate(int64_t size) {
  const at::Tensor a = at::randn({size, size}, bf16()), b = at::randn({size, size}, bf16());
  at::Tensor c = at::empty_like(a);
  const double seconds = seconds_of([&] { at::mm_out(c, a, b.t()); });
  return 2 * std::pow(static_cast<double>(size), 3) / seconds;
}

double copy_rate() {
  const at::Tensor from = at::randn({int64_t{1} << 29}, bf16());
  at::Tensor to = at::empty_like(from);
  const double seconds = seconds_of([&] { to.copy_(from); });
  return 2 * static_cast<double>(from.nbytes()) / seconds;
}

double attention_rate(const plan::LayerShape& l, int64_t seq, int64_t rows) {
  const bool latent = l.mla.kv_rank > 0;
  const int64_t kv_heads = latent ? l.heads : l.kv_heads,
                dim = latent ? l.mla.nope + l.mla.rope : l.head_dim,
                v_dim = latent ? l.mla.v_dim : l.head_dim;
  const auto heads_first = [&](int64_t heads, int64_t d) {
    return at::randn({rows, seq, heads, d}, bf16()).transpose(1, 2);
  };
  const at::Tensor q = heads_first(l.heads, dim), k = heads_first(kv_heads, dim),
                   v = heads_first(kv_heads, v_dim), dout = heads_first(l.heads, v_dim), none,
                   seed = at::empty({}, q.options().dtype(at::kLong));
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  const double seconds = seconds_of([&] {
    const auto all = at::_cudnn_attention_forward(q, k, v, std::nullopt, std::nullopt, std::nullopt,
                                                  seq, seq, true, 0., true, false, scale);
    at::_cudnn_attention_backward(dout, q, k, v, std::get<0>(all), std::get<1>(all), seed, seed,
                                  none, none, none, seq, seq, 0., true, scale);
  });
  const auto pairs = static_cast<double>(rows * l.heads * (dim + v_dim)) *
                     std::pow(static_cast<double>(seq), 2) / 2;
  return 6 * pairs / seconds;
}

}  // namespace conclave::recipes::cuda
