// A warp a token and head; lanes take pairs of bf16. dim is even.
#include <cuda_bf16.h>

#include "kernels/attention_sink.h"
#include "kernels/launch.h"

namespace conclave::kernels {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

__global__ void __launch_bounds__(kThreads)
    sink_kernel(__nv_bfloat162* out, float* lse, const float* sinks, int64_t tokens, int heads,
                int pairs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= tokens * heads) return;
  const int lane = threadIdx.x % 32;
  const int64_t token = i / heads, head = i % heads;
  const float plain = lse[head * tokens + token], above = sinks[head] - plain;
  const float factor = 1.f / (1.f + expf(above));
  __nv_bfloat162* mine = out + i * pairs;
  for (int j = lane; j < pairs; j += 32) {
    const float2 v = __bfloat1622float2(mine[j]);
    mine[j] = __floats2bfloat162_rn(v.x * factor, v.y * factor);
  }
  __syncwarp();  // every lane has read lse
  if (lane == 0)
    lse[head * tokens + token] = fmaxf(plain, sinks[head]) + log1pf(expf(-fabsf(above)));
}

__global__ void __launch_bounds__(kThreads)
    sink_backward_kernel(float* terms, const __nv_bfloat162* dout, const __nv_bfloat162* out,
                         const float* lse, const float* sinks, int64_t tokens, int heads,
                         int pairs) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (i >= tokens * heads) return;
  const int lane = threadIdx.x % 32;
  const int64_t at = i % heads * tokens + i / heads;
  float delta = 0;
  for (int j = lane; j < pairs; j += 32) {
    const float2 a = __bfloat1622float2(dout[i * pairs + j]),
                 b = __bfloat1622float2(out[i * pairs + j]);
    delta += a.x * b.x + a.y * b.y;
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) delta += __shfl_xor_sync(0xFFFFFFFFu, delta, step);
  if (lane == 0) terms[at] = -expf(sinks[i % heads] - lse[at]) * delta;
}

unsigned blocks_for(int64_t tokens, int heads) {
  return static_cast<unsigned>((tokens * heads + kWarps - 1) / kWarps);
}

}  // namespace

void attention_sink(void* out, float* lse, const float* sinks, int64_t tokens, int heads, int dim,
                    cudaStream_t stream) {
  if (tokens == 0) return;
  sink_kernel<<<blocks_for(tokens, heads), kThreads, 0, stream>>>(
      static_cast<__nv_bfloat162*>(out), lse, sinks, tokens, heads, dim / 2);
  check_launch("attention_sink");
}

void attention_sink_backward(float* terms, const void* dout, const void* out, const float* lse,
                             const float* sinks, int64_t tokens, int heads, int dim,
                             cudaStream_t stream) {
  if (tokens == 0) return;
  sink_backward_kernel<<<blocks_for(tokens, heads), kThreads, 0, stream>>>(
      terms, static_cast<const __nv_bfloat162*>(dout), static_cast<const __nv_bfloat162*>(out), lse,
      sinks, tokens, heads, dim / 2);
  check_launch("attention_sink_backward");
}

}  // namespace conclave::kernels
