// Memory-bound ops on the GPU at the models' sizes, each beside a copy of as many bytes in the same
// run: `kernels_bench [PART OF A NAME]`. Prints a line of JSON for each, the device first.
#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "beside_copy.h"
#include "kernels/cross_entropy.h"
#include "ops/adamw.h"
#include "ops/dispatch.h"
#include "ops/embedding.h"
#include "ops/grouped_bias.h"
#include "ops/head_norm_rotary.h"
#include "ops/norm.h"
#include "ops/random.h"
#include "ops/rotary.h"
#include "ops/swiglu.h"

namespace {
using namespace conclave;
using namespace conclave::bench;

constexpr int64_t kTokens = 16384;

at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype = at::kBFloat16) {
  return at::randn(sizes, gpu(dtype));
}
double bytes_of(std::initializer_list<at::Tensor> tensors) {
  double sum = 0;
  for (const at::Tensor& t : tensors) sum += static_cast<double>(t.nbytes());
  return sum;
}

struct Model {
  const char* name;
  int64_t hidden, top_k, ffn, experts, vocab;
  ops::Activation activation;
};
constexpr Model kModels[] = {
    {"qwen3-30b", 2048, 8, 768, 128, 151936, ops::Activation::swiglu},
    {"gpt-oss", 2880, 4, 2880, 32, 201088, ops::Activation::clamped_swiglu},
    {"deepseek-v3", 7168, 8, 2048, 256, 129280, ops::Activation::swiglu}};

void norms(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  items.add("rms_norm" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden}), w = normal({m.hidden});
    i.bytes = 2 * bytes_of({x});
    i.run = [=] { ops::rms_norm(x, w, 1e-6); };
  });
  items.add("add_rms_norm" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden}), r = normal({kTokens, m.hidden}),
                     w = normal({m.hidden});
    i.bytes = 4 * bytes_of({x});
    i.run = [=] { ops::add_rms_norm(x, r, w, 1e-6); };
  });
  for (bool with_sum : {false, true})
    items.add((with_sum ? "rms_norm_backward+dsum" : "rms_norm_backward") + at, [&](Item& i) {
      const at::Tensor x = normal({kTokens, m.hidden}), dy = normal({kTokens, m.hidden}),
                       w = normal({m.hidden}), rstd = ops::rms_norm(x, w, 1e-6).rstd,
                       dsum = with_sum ? normal({kTokens, m.hidden}) : at::Tensor();
      i.bytes = (with_sum ? 4 : 3) * bytes_of({x});
      i.run = [=] { ops::rms_norm_backward(dy, x, rstd, w, dsum); };
    });
}

void rotaries(Items& items) {
  const at::Tensor positions = at::randint(4096, {kTokens}, gpu(at::kLong));
  auto table = [](int64_t dim) {
    const ops::RotaryTable t = ops::rotary_table(4096, dim, {.theta = 1e6}, at::kFloat);
    return ops::RotaryTable{t.cos.cuda(), t.sin.cuda()};
  };
  // Queries and keys in one call, as the model runs it.
  auto heads = [] { return ops::QueryKey{normal({kTokens, 32, 128}), normal({kTokens, 4, 128})}; };
  const ops::QueryKey w{normal({128}), normal({128})};
  items.add("head_norm_rotary/qwen3-30b, 32 + 4 heads", [&](Item& i) {
    const ops::QueryKey x = heads();
    i.bytes = 2 * bytes_of({x.q, x.k});
    i.run = [=, t = table(128)] { ops::head_norm_rotary(x, w, 1e-6, positions, t); };
  });
  items.add("head_norm_rotary_backward/qwen3-30b, 32 + 4 heads", [&](Item& i) {
    const ops::QueryKey x = heads(), dy = heads();
    const ops::RotaryTable t = table(128);
    const ops::QueryKey rstd = ops::head_norm_rotary(x, w, 1e-6, positions, t).rstd;
    i.bytes = 3 * bytes_of({x.q, x.k});
    i.run = [=] { ops::head_norm_rotary_backward(dy, x, rstd, w, positions, t); };
  });
  items.add("rotary/gpt-oss, 64 heads", [&](Item& i) {
    const at::Tensor x = normal({kTokens, 64, 64});
    i.bytes = 2 * bytes_of({x});
    i.run = [=, t = table(64)] { ops::rotary(x, positions, t); };
  });
  items.add("rotary/deepseek-v3, 64 of 192 interleaved, 128 heads", [&](Item& i) {
    const at::Tensor x = normal({kTokens, 128, 192});
    i.bytes = 2 * bytes_of({x});
    i.run = [=, t = table(64)] { ops::rotary(x, positions, t, ops::RotaryForm::interleaved, 128); };
  });
}

void experts(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  const int64_t rows = kTokens * m.top_k;
  items.add("swiglu" + at, [&](Item& i) {
    const at::Tensor h = normal({rows, 2 * m.ffn}), w = normal({rows}, at::kFloat);
    i.bytes = 1.5 * bytes_of({h}) + bytes_of({w});
    i.run = [=, a = m.activation] { ops::swiglu(h, w, a); };
  });
  items.add("swiglu_backward" + at, [&](Item& i) {
    const at::Tensor h = normal({rows, 2 * m.ffn}), w = normal({rows}, at::kFloat),
                     dy = normal({rows, m.ffn});
    i.bytes = 2 * bytes_of({h}) + bytes_of({dy}) + 2 * bytes_of({w});
    i.run = [=, a = m.activation] { ops::swiglu_backward(dy, h, w, a); };
  });
  if (m.activation == ops::Activation::clamped_swiglu) {
    const at::Tensor offsets = at::arange(0, rows + 1, rows / 4, gpu(at::kInt)),
                     bias = normal({4, m.ffn});
    items.add("grouped_bias_backward" + at, [&](Item& i) {
      const at::Tensor dy = normal({rows, m.ffn}), dbias = at::zeros({4, m.ffn}, gpu(at::kFloat));
      i.bytes = bytes_of({dy});
      i.run = [=] { ops::grouped_bias_backward_(dbias, dy, offsets, {}); };
    });
    items.add("grouped_bias_backward_weights" + at, [&](Item& i) {
      const at::Tensor dy = normal({rows, m.ffn});
      i.bytes = bytes_of({dy});
      i.run = [=] { ops::grouped_bias_backward_weights(dy, bias, offsets); };
    });
  }
  // Random experts, expert-major: a stable sort of the chosen ones.
  const at::Tensor chosen = at::randn({kTokens, m.experts}, gpu(at::kFloat))
                                .argsort(1, /*descending=*/true)
                                .slice(1, 0, m.top_k)
                                .flatten();
  const at::Tensor pair = at::argsort(chosen, /*stable=*/true, 0, false), row = pair.argsort();
  const ops::ExpertLayout layout{
      {}, pair.to(at::kInt), row.to(at::kInt).view({kTokens, m.top_k}).contiguous()};
  items.add("gather_rows" + at, [&](Item& i) {
    const at::Tensor x = normal({kTokens, m.hidden});
    i.bytes = static_cast<double>(1 + m.top_k) * bytes_of({x}) + bytes_of({layout.row});
    i.run = [=] { ops::gather_rows(x, layout); };
  });
  items.add("gather_sum" + at, [&](Item& i) {
    const at::Tensor x = normal({rows, m.hidden});
    i.bytes = bytes_of({x}) * (1 + 1.0 / static_cast<double>(m.top_k)) + bytes_of({layout.row});
    i.run = [=] { ops::gather_sum(x, layout); };
  });
}

void vocabulary(Items& items, const Model& m) {
  const std::string at = std::string("/") + m.name;
  const at::Tensor ids = at::randint(m.vocab, {kTokens}, gpu(at::kLong));
  items.add("embedding" + at, [&](Item& i) {
    const at::Tensor w = normal({m.vocab, m.hidden});
    i.bytes = 2.0 * static_cast<double>(kTokens * m.hidden * 2);
    i.run = [=] { ops::embedding(ids, w); };
  });
  items.add("embedding_backward" + at, [&](Item& i) {
    const at::Tensor dw = at::zeros({m.vocab, m.hidden}, gpu(at::kFloat)),
                     dy = normal({kTokens, m.hidden});
    // dy, and fp32 rows that are read and written: one of each id.
    const double rows =
        at::zeros({m.vocab}, gpu(at::kFloat)).index_fill_(0, ids, 1).sum().item().toDouble();
    i.bytes = bytes_of({dy}) + 2 * rows * static_cast<double>(m.hidden * dw.element_size());
    i.run = [=] { ops::embedding_backward_(dw, ids, dy); };
  });
  items.add("cross_entropy, softmax pass" + at, [&](Item& i) {
    constexpr int64_t kRows = 2048;
    const at::Tensor source = normal({kRows, m.vocab}), logits = at::empty_like(source),
                     losses = at::empty({kRows}, gpu(at::kDouble));
    i.bytes = 2 * bytes_of({logits});
    i.prepare = [=] { logits.copy_(source); };
    i.run = [=, vocab = m.vocab] {
      kernels::cross_entropy(losses.data_ptr<double>(),
                             static_cast<kernels::bf16*>(logits.data_ptr()),
                             ids.const_data_ptr<int64_t>(), 1e-4, true, {kRows, vocab, -100},
                             c10::cuda::getCurrentCUDAStream());
    };
  });
}

void optimizer(Items& items) {
  constexpr int64_t kN = int64_t{1} << 27;
  const ops::AdamWStep step{
      .lr = 1e-5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 10};
  const std::vector<int64_t> decay{0, kN / 2, kN / 2 + 4096, kN};
  struct Kind {
    const char* name;
    bool master;
    at::ScalarType moments, gradients;
  };
  for (const Kind& k : {Kind{"adamw, split master, fp32 states", true, at::kFloat, at::kFloat},
                        {"adamw, split master, bf16 states", true, at::kBFloat16, at::kBFloat16},
                        {"adamw, bf16, bf16 states", false, at::kBFloat16, at::kBFloat16}})
    items.add(std::string(k.name) + "/134M", [&](Item& i) {
      const at::Tensor w = normal({kN}), lo = at::zeros({kN}, gpu(at::kShort)),
                       m = normal({kN}, k.moments), v = normal({kN}, k.moments).square(),
                       g = normal({kN}, k.gradients);
      i.bytes = 2 * bytes_of({w, m, v}) + bytes_of({g}) + (k.master ? 2 * bytes_of({lo}) : 0);
      i.run = [=, master = k.master] {
        if (master)
          ops::adamw_split_(w, lo, m, v, g, decay, step);
        else
          ops::adamw_(w, m, v, g, decay, step);
      };
    });
  for (auto [dtype, name] : {std::pair{at::kFloat, "fp32"}, {at::kBFloat16, "bf16"}})
    items.add(std::string("squared_sum, ") + name + "/268M", [&](Item& i) {
      const at::Tensor x = normal({2 * kN}, dtype), sum = at::zeros({1}, gpu(at::kDouble));
      i.bytes = bytes_of({x});
      i.run = [=] { ops::add_squared_sum_(sum, x); };
    });
  items.add("fill_normal, fp32/134M", [&](Item& i) {
    const at::Tensor x = at::empty({kN}, gpu(at::kFloat));
    i.bytes = bytes_of({x});
    i.run = [=] { ops::fill_normal_(x, 1, 2, 0, 0.02); };
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (!at::hasCUDA()) {
    std::puts("skipped: no GPU here");
    return 77;
  }
  c10::InferenceMode no_autograd;
  cudaDeviceProp device{};
  cudaGetDeviceProperties(&device, 0);
  std::printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"tokens\": %ld, \"rounds\": %d}\n",
              device.name, device.multiProcessorCount, static_cast<long>(kTokens), kRounds);
  const std::string only = argc > 1 ? argv[1] : "";
  for (const Model& m : kModels) {
    run([&](Items& i) { norms(i, m); }, only);
    run([&](Items& i) { experts(i, m); }, only);
    run([&](Items& i) { vocabulary(i, m); }, only);
  }
  run(rotaries, only);
  run(optimizer, only);
}
