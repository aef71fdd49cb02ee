#include <ATen/OpMathType.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "base/check.h"
#include "kernels/grouped_rows.h"
#include "ops/grouped_mlp_cuda.h"
#include "ops/matmul_cuda.h"

namespace conclave::ops::cuda {
namespace {

constexpr int64_t kWidth = 8;  // 16 bytes of bf16
constexpr int64_t kPieceBytes = int64_t{256} << 20;

int64_t round_up(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

// t with zeros behind the last dims' ends, so that each is a multiple of kWidth, on an address that
// is one of 16 bytes; t itself where it is so.
at::Tensor aligned(const at::Tensor& t, int dims) {
  std::vector<int64_t> pad;
  bool any = false;
  for (int i = 1; i <= dims; ++i) {
    pad.insert(pad.end(), {0, round_up(t.size(-i)) - t.size(-i)});
    any |= pad.back() > 0;
  }
  if (any) return at::constant_pad_nd(t, pad);
  return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0 ? t : t.clone();
}

void check_offsets_on_device(const at::Tensor& offsets, const at::Tensor& rows, int64_t experts) {
  CHECK_SHAPE(offsets, experts + 1);
  CHECK_DTYPE(offsets, at::kInt);
  TORCH_CHECK(offsets.device() == rows.device(), "offsets: expected a tensor on ", rows.device(),
              ", got one on ", offsets.device());
}

at::Tensor ends(const at::Tensor& offsets) { return offsets.slice(0, 1); }

// f(expert, its rows' begin and end), with the offsets on the host: waits for the device.
template <class F>
void each_expert(const at::Tensor& offsets, const F& f) {
  const at::Tensor host = offsets.cpu();
  const int32_t* o = host.const_data_ptr<int32_t>();
  for (int64_t e = 0; e + 1 < host.numel(); ++e)
    if (o[e] < o[e + 1]) f(e, o[e], o[e + 1]);
}

// x · w[e] for the rows of each expert, w [experts, in, out] in any strides. bf16: `in` and both
// strides as at::_grouped_mm wants them.
at::Tensor rows_times(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets) {
  if (x.scalar_type() == at::kBFloat16) return at::_grouped_mm(x, w, ends(offsets));
  at::Tensor y = at::empty({x.size(0), w.size(2)}, x.options());
  each_expert(offsets, [&](int64_t e, int64_t begin, int64_t end) {
    at::Tensor to = y.slice(0, begin, end);
    at::mm_out(to, x.slice(0, begin, end), w.select(0, e));
  });
  return y;
}

kernels::RowType row_type(const at::Tensor& t) {
  TORCH_CHECK(t.scalar_type() == at::kBFloat16 || t.scalar_type() == at::kFloat,
              "expected bf16 or fp32 on CUDA, got ", t.scalar_type());
  return t.scalar_type() == at::kBFloat16 ? kernels::RowType::bf16 : kernels::RowType::fp32;
}

kernels::GroupedRows grouped_rows(const at::Tensor& y, const at::Tensor& offsets) {
  const int64_t experts = offsets.numel() - 1;
  check_offsets_on_device(offsets, y, experts);
  return {offsets.const_data_ptr<int32_t>(), static_cast<int>(experts), y.size(0), y.size(1),
          row_type(y)};
}

const float* floats(const at::Tensor& t) {
  return t.defined() ? t.const_data_ptr<float>() : nullptr;
}

}  // namespace

at::Tensor grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                          const at::Tensor& bias, const at::Tensor& weights) {
  check_offsets_on_device(offsets, x, w.size(0));
  if (auto made = fused_grouped_linear(x, w, offsets, bias, weights)) return *made;
  return aten_grouped_linear(x, w, offsets, bias, weights);
}

at::Tensor aten_grouped_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& offsets,
                               const at::Tensor& bias, const at::Tensor& weights) {
  const int64_t out = w.size(1);
  check_offsets_on_device(offsets, x, w.size(0));
  if (x.size(0) == 0) return at::empty({0, out}, x.options());
  at::Tensor y = x.scalar_type() == at::kBFloat16
                     ? rows_times(aligned(x, 1), aligned(w, 2).transpose(1, 2), offsets)
                     : rows_times(x, w.transpose(1, 2), offsets);
  y = y.slice(1, 0, out).contiguous();
  if (bias.defined()) grouped_bias_(y, bias, offsets, weights);
  return y;
}

at::Tensor grouped_linear_backward_input(const at::Tensor& dy, const at::Tensor& w,
                                         const at::Tensor& offsets) {
  const int64_t in = w.size(2);
  check_offsets_on_device(offsets, dy, w.size(0));
  if (dy.size(0) == 0) return at::empty({0, in}, dy.options());
  if (auto made = fused_grouped_linear_backward_input(dy, w, offsets)) return *made;
  if (dy.scalar_type() != at::kBFloat16) return rows_times(dy, w, offsets);
  return rows_times(aligned(dy, 1), aligned(w, 2), offsets).slice(1, 0, in).contiguous();
}

void grouped_linear_backward_weight_(at::Tensor dw, const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& offsets) {
  const int64_t experts = dw.size(0), out = dw.size(1), in = dw.size(2);
  check_offsets_on_device(offsets, x, experts);
  if (x.size(0) == 0) return;
  if (fused_grouped_linear_backward_weight_(dw, dy, x, offsets)) return;
  if (x.scalar_type() != at::kBFloat16) {
    each_expert(offsets, [&](int64_t e, int64_t begin, int64_t end) {
      dw.select(0, e).addmm_(dy.slice(0, begin, end).t(), x.slice(0, begin, end));
    });
    return;
  }
  const at::Tensor left = aligned(dy, 1), right = aligned(x, 1);
  const int64_t width = right.size(1), most = kPieceBytes / (2 * experts * width);
  const int64_t step =
      most >= left.size(1) ? left.size(1) : std::max<int64_t>(most / 128 * 128, 128);
  const bool whole = width == in && in * out % kWidth == 0 &&
                     reinterpret_cast<uintptr_t>(dw.const_data_ptr()) % 16 == 0;
  for (int64_t first = 0; first < out; first += step) {
    const int64_t last = std::min(first + step, out);
    const at::Tensor piece =  // [experts, rows of w, width]
        at::_grouped_mm(left.slice(1, first, std::min(first + step, left.size(1))).t(), right,
                        ends(offsets));
    at::Tensor to = dw.slice(1, first, last);
    if (whole && piece.size(1) == last - first) {
      kernels::add_expert_gradients(to.data_ptr(), row_type(dw), out * in, piece.const_data_ptr(),
                                    offsets.const_data_ptr<int32_t>(), static_cast<int>(experts),
                                    last - first, in, c10::cuda::getCurrentCUDAStream());
    } else {
      to.add_(piece.slice(1, 0, last - first).slice(2, 0, in));
    }
  }
}

void grouped_bias_(at::Tensor y, const at::Tensor& bias, const at::Tensor& offsets,
                   const at::Tensor& weights) {
  kernels::grouped_bias(grouped_rows(y, offsets), y.data_ptr(), bias.const_data_ptr(),
                        floats(weights), c10::cuda::getCurrentCUDAStream());
}

at::Tensor grouped_bias_backward_weights(const at::Tensor& dy, const at::Tensor& bias,
                                         const at::Tensor& offsets) {
  at::Tensor dweights =
      at::empty({dy.size(0)}, dy.options().dtype(at::toOpMathType(dy.scalar_type())));
  kernels::grouped_bias_backward_weights(grouped_rows(dy, offsets), dweights.data_ptr<float>(),
                                         dy.const_data_ptr(), bias.const_data_ptr(),
                                         c10::cuda::getCurrentCUDAStream());
  return dweights;
}

void grouped_bias_backward_(at::Tensor dbias, const at::Tensor& dy, const at::Tensor& offsets,
                            const at::Tensor& weights) {
  kernels::grouped_bias_backward(grouped_rows(dy, offsets), dbias.data_ptr(), row_type(dbias),
                                 dy.const_data_ptr(), floats(weights),
                                 c10::cuda::getCurrentCUDAStream());
}

}  // namespace conclave::ops::cuda
