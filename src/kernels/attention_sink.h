// Attention sinks around a flash attention that knows none. A head's sink s joins the softmax's
// denominator only, so with the plain result (O, LSE):  O' = O / (1 + exp(s − LSE)),  LSE' =
// log(exp(LSE) + exp(s)). The plain backward on (O', LSE') gives dq, dk, dv, and  ds = −Σ exp(s −
// LSE') · ⟨dO, O'⟩  over the tokens.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>

namespace conclave::kernels {

// out [tokens, heads, dim] bf16 and lse [heads, tokens] fp32 in place; sinks [heads] fp32. Reads
// and writes out once.
void attention_sink(void* out, float* lse, const float* sinks, int64_t tokens, int heads, int dim,
                    cudaStream_t stream);
// terms [heads, tokens] = −exp(s − lse) · ⟨dout, out⟩, whose sum over tokens is ds. dout, out
// [tokens, heads, dim] bf16.
void attention_sink_backward(float* terms, const void* dout, const void* out, const float* lse,
                             const float* sinks, int64_t tokens, int heads, int dim,
                             cudaStream_t stream);

}  // namespace conclave::kernels
