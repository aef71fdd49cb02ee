#include "ops/cross_entropy.h"

#include <ATen/Dispatch.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "base/check.h"
#include "ops/blocks.h"
#include "ops/cross_entropy_cuda.h"
#include "ops/device.h"
#include "ops/gemm.h"
#include "ops/softmax_rows.h"

namespace conclave::ops {
namespace {

constexpr int64_t kTokens = 128;  // rows of a tile of logits
constexpr int64_t kVocab = 2048;  // columns of it
constexpr int64_t kOut = 128;     // rows of dw, or columns of dx, a task

int64_t blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

// Tokens begin … begin + count of the batch.
struct Chunk {
  int64_t begin, count;
};

template <class T>
class Chunks {
  using A = acc_t<T>;
  static constexpr bool kRounds = !std::is_same_v<T, A>;

 public:
  // `chunk` tokens at most at once. Without dw no gradient is computed.
  Chunks(const at::Tensor& x, const at::Tensor& w, const at::Tensor& labels, double seed,
         at::Tensor& dw, at::Tensor& dx, int64_t chunk)
      : hidden_(x.size(1)),
        vocab_(w.size(0)),
        ld_((vocab_ + 15) / 16 * 16 + 16),
        seed_(static_cast<A>(seed)),
        x_(x.const_data_ptr<T>()),
        w_(w.const_data_ptr<T>()),
        labels_(labels.const_data_ptr<int64_t>()),
        losses_(static_cast<size_t>(x.size(0))) {
    const auto wide = w.options().dtype(at::toOpMathType(w.scalar_type()));
    logits_memory_ = at::empty({chunk, ld_}, wide);
    logits_ = logits_memory_.data_ptr<A>();
    if (!dw.defined()) return;
    dw_ = dw.data_ptr<A>();
    dx_ = dx.data_ptr<T>();
    if constexpr (kRounds) {
      dlogits_memory_ = at::empty({chunk, ld_}, w.options());
      dx_memory_ = at::empty({chunk, hidden_}, wide);
      dlogits_ = dlogits_memory_.data_ptr<T>();
      dx_sum_ = dx_memory_.data_ptr<A>();
    } else {
      dlogits_ = logits_;
    }
  }

  void run(const Chunk& c) {
    if constexpr (!kRounds) dx_sum_ = dx_ + c.begin * hidden_;
    const int64_t rows = blocks(c.count, kTokens), columns = blocks(vocab_, kVocab),
                  parts = blocks(hidden_, kOut);
    const int64_t cost = kTokens * hidden_;
    constexpr int64_t kEnough = 8;          // tasks
    if (rows >= kEnough || columns == 1) {  // logits are in the cache when softmax and dx need them
      each_block(rows, cost * vocab_, [&](int64_t row) {
        for (int64_t column = 0; column < columns; ++column) logits(c, row, column);
        for (int64_t t = row * kTokens; t < std::min(c.count, (row + 1) * kTokens); ++t)
          softmax(c, t);
        if (dw_) input_gradient(c, row, 0, hidden_);
      });
    } else {  // few tokens, many columns: tasks of both
      each_block(rows * columns, cost * kVocab,
                 [&](int64_t i) { logits(c, i / columns, i % columns); });
      each_block(c.count, vocab_, [&](int64_t t) { softmax(c, t); });
      if (dw_)
        each_block(rows * parts, kTokens * kOut * vocab_, [&](int64_t i) {
          const int64_t begin = i % parts * kOut;
          input_gradient(c, i / parts, begin, std::min(hidden_, begin + kOut));
        });
    }
    if (!dw_) return;
    each_block(blocks(vocab_, kOut), kOut * hidden_ * c.count,
               [&](int64_t block) { weight_gradient(c, block * kOut); });
  }

  double loss_sum() const {
    double sum = 0;
    for (double loss : losses_) sum += loss;
    return sum;
  }

 private:
  void logits(const Chunk& c, int64_t row, int64_t column) const {
    const int64_t t = row * kTokens, v = column * kVocab;
    gemm(false, true, std::min(kTokens, c.count - t), std::min(kVocab, vocab_ - v), hidden_, A(1),
         x_ + (c.begin + t) * hidden_, hidden_, w_ + v * hidden_, hidden_, A(0),
         logits_ + t * ld_ + v, ld_);
  }

  // Loss of row t; its logits are overwritten by (softmax − onehot) · seed.
  void softmax(const Chunk& c, int64_t t) {
    A* row = logits_ + t * ld_;
    T* gradient = dlogits_ + t * ld_;
    const int64_t label = labels_[c.begin + t];
    if (label == kIgnore) {
      losses_[static_cast<size_t>(c.begin + t)] = 0;
      if (dw_) std::fill(gradient, gradient + vocab_, T(0));
      return;
    }
    const A target = row[label], largest = row_max(row, vocab_),
            sum = row_exp(row, vocab_, largest);
    losses_[static_cast<size_t>(c.begin + t)] =
        std::log(static_cast<double>(sum)) +
        (static_cast<double>(largest) - static_cast<double>(target));
    if (!dw_) return;
    const A factor = seed_ / sum;
    // p − 1 before the product with the seed: near p = 1 the difference is what counts.
    const A at_label = (row[label] / sum - 1) * seed_;
    sweep<A>(vocab_, [=](int64_t v, auto lanes) {
      store(gradient + v, load(row + v, lanes) * factor, lanes);
    });
    gradient[label] = static_cast<T>(at_label);
  }

  // dx of a block of rows, columns begin … end.
  void input_gradient(const Chunk& c, int64_t row, int64_t begin, int64_t end) {
    const int64_t t = row * kTokens, count = std::min(kTokens, c.count - t);
    gemm(false, false, count, end - begin, vocab_, A(1), dlogits_ + t * ld_, ld_, w_ + begin,
         hidden_, A(0), dx_sum_ + t * hidden_ + begin, hidden_);
    if constexpr (kRounds)
      for (int64_t r = t; r < t + count; ++r)
        sweep<A>(end - begin, [=, from = dx_sum_ + r * hidden_ + begin,
                               to = dx_ + (c.begin + r) * hidden_ + begin](int64_t i, auto lanes) {
          store(to + i, load(from + i, lanes), lanes);
        });
  }

  void weight_gradient(const Chunk& c, int64_t v) {
    gemm(true, false, std::min(kOut, vocab_ - v), hidden_, c.count, A(1), dlogits_ + v, ld_,
         x_ + c.begin * hidden_, hidden_, A(1), dw_ + v * hidden_, hidden_);
  }

  int64_t hidden_, vocab_, ld_;  // ld_: rows of logits are aligned and do not fall on one cache set
  A seed_;
  const T *x_, *w_;
  const int64_t* labels_;
  std::vector<double> losses_;  // one a token
  at::Tensor logits_memory_, dlogits_memory_, dx_memory_;
  A *logits_ = nullptr, *dx_sum_ = nullptr, *dw_ = nullptr;
  T *dlogits_ = nullptr, *dx_ = nullptr;  // dlogits_ is logits_ itself unless it is rounded to bf16
};

int64_t count_scored(const at::Tensor& labels, int64_t vocab) {
  int64_t scored = 0;
  const int64_t* label = labels.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < labels.numel(); ++t) {
    if (label[t] == kIgnore) continue;
    TORCH_CHECK(label[t] >= 0 && label[t] < vocab, "labels[", t, "]: expected 0 … ", vocab - 1,
                " or ", kIgnore, " (not scored), got ", label[t]);
    ++scored;
  }
  return scored;
}

void check_operands(const at::Tensor& x, const at::Tensor& w, const at::Tensor& labels,
                    const at::Tensor& dw) {
  TORCH_CHECK(x.dim() == 2, "x: expected [tokens, hidden], got ", x.sizes());
  TORCH_CHECK(w.dim() == 2, "w: expected [vocab, hidden], got ", w.sizes());
  const int64_t tokens = x.size(0), hidden = x.size(1), vocab = w.size(0);
  CHECK_SHAPE(x, tokens, hidden);
  CHECK_SHAPE(w, vocab, hidden);
  CHECK_DTYPE(w, x.scalar_type());
  CHECK_SHAPE(labels, tokens);
  CHECK_DTYPE(labels, at::kLong);
  if (!dw.defined()) return;
  CHECK_SHAPE(dw, vocab, hidden);
  if (!(x.is_cuda() && dw.scalar_type() == x.scalar_type()))
    CHECK_DTYPE(dw, at::toOpMathType(x.scalar_type()));
}

LinearCrossEntropy on_cpu(const at::Tensor& x, const at::Tensor& w, const at::Tensor& labels,
                          double seed, at::Tensor dw, int64_t max_logits) {
  const int64_t tokens = x.size(0), vocab = w.size(0);
  LinearCrossEntropy result{0, count_scored(labels, vocab), {}};
  if (dw.defined()) result.dx = at::empty(x.sizes(), x.options());
  if (tokens == 0) return result;
  // As few chunks as max_logits allows, all of nearly one size.
  const int64_t most = std::clamp<int64_t>(max_logits / std::max<int64_t>(vocab, 1), 1, tokens);
  const int64_t even = blocks(tokens, blocks(tokens, most)),
                chunk = std::min(most, blocks(even, kTokens) * kTokens);
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "linear_cross_entropy", [&] {
    Chunks<scalar_t> chunks(x, w, labels, seed, dw, result.dx, chunk);
    for (int64_t begin = 0; begin < tokens; begin += chunk)
      chunks.run({begin, std::min(chunk, tokens - begin)});
    result.loss_sum = chunks.loss_sum();
  });
  return result;
}

int64_t or_default(int64_t max_logits, const at::Tensor& x) {
  return max_logits > 0 ? max_logits : x.is_cuda() ? kCudaLogits : kCpuLogits;
}

}  // namespace

LinearCrossEntropy linear_cross_entropy(const at::Tensor& x, const at::Tensor& w,
                                        const at::Tensor& labels, double seed, at::Tensor dw,
                                        int64_t max_logits) {
  check_operands(x, w, labels, dw);
  max_logits = or_default(max_logits, x);
  if constexpr (kCudaBuild)
    if (x.is_cuda()) {
      const at::Tensor loss_sum = at::zeros({1}, x.options().dtype(at::kDouble));
      const at::Tensor dx =
          cuda::linear_cross_entropy_(loss_sum, x, w, labels, seed, dw, max_logits);
      return {loss_sum.item().toDouble(), labels.ne(kIgnore).sum().item().toLong(), dx};
    }
  return on_cpu(x, w, labels, seed, dw, max_logits);
}

at::Tensor linear_cross_entropy_(at::Tensor loss_sum, const at::Tensor& x, const at::Tensor& w,
                                 const at::Tensor& labels, double seed, at::Tensor dw,
                                 int64_t max_logits) {
  check_operands(x, w, labels, dw);
  CHECK_SHAPE(loss_sum, 1);
  CHECK_DTYPE(loss_sum, at::kDouble);
  max_logits = or_default(max_logits, x);
  if constexpr (kCudaBuild)
    if (x.is_cuda())
      return cuda::linear_cross_entropy_(loss_sum, x, w, labels, seed, dw, max_logits);
  const LinearCrossEntropy result = on_cpu(x, w, labels, seed, dw, max_logits);
  *loss_sum.data_ptr<double>() += result.loss_sum;
  return result.dx;
}

}  // namespace conclave::ops
