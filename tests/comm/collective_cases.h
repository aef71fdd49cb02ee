// The collectives' values on any back end and device: each function is called by all ranks of a
// group and throws where what came is not what the values of the ranks give.
#pragma once
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>

#include <cmath>
#include <random>
#include <vector>

#include "cases.h"
#include "comm/comm.h"

namespace conclave::comm {

// Whether sums have the bits of comm.h's promise, or NCCL's order.
enum class Sums { in_rank_order, near };

class CollectiveCases {
 public:
  CollectiveCases(Comm& comm, at::Device device, Sums sums = Sums::in_rank_order)
      : comm_(comm), device_(device), sums_(sums) {}

  void run() const {
    for (int64_t n : {0, 1, 5, 1000, 70'000}) {
      for (auto dtype : {at::kDouble, at::kBFloat16, at::kShort}) all_gather(n, dtype);
      all_gather_in_place(n);
      for (auto dtype : {at::kDouble, at::kFloat, at::kBFloat16, at::kLong}) {
        for (bool in_place : {false, true}) reduce_scatter(n, dtype, in_place);
        all_reduce(n, dtype);
      }
    }
    for (int64_t width : {0, 3, 1000}) all_to_all(width);
    for (int i = 0; i < 3; ++i) comm_.barrier();
  }

  // Of very different magnitudes.
  static at::Tensor random(int rank, int64_t n, at::ScalarType dtype) {
    std::mt19937 draw(static_cast<unsigned>(17 + rank));
    at::Tensor x = at::empty({n}, at::kDouble);
    for (int64_t i = 0; i < n; ++i)
      x.mutable_data_ptr<double>()[i] = std::ldexp(static_cast<double>(draw()) / 4294967296.0 - 0.5,
                                                   static_cast<int>(draw() % 20));
    return x.to(dtype);
  }

  // Σ over ranks of random(rank) in rank order, one addition at a time.
  static at::Tensor sum_by_hand(int size, int64_t n, at::ScalarType dtype) {
    const auto wide = dtype == at::kBFloat16 ? at::kFloat : dtype;
    at::Tensor sum = random(0, n, dtype).to(wide);
    for (int r = 1; r < size; ++r) sum += random(r, n, dtype).to(wide);
    return sum.to(dtype);
  }

  void all_gather(int64_t n, at::ScalarType dtype) const {
    at::Tensor out = at::full({size(), n}, -1, dtype).to(device_);
    comm_.all_gather(out, numbered(rank(), n, dtype).to(device_));
    for (int r = 0; r < size(); ++r) expect(out[r], numbered(r, n, dtype), "all_gather");
  }

  void all_gather_in_place(int64_t n) const {
    at::Tensor out = at::full({size() * n}, -1.0, at::kDouble).to(device_);
    out.narrow(0, rank() * n, n).copy_(numbered(rank(), n));
    comm_.all_gather(out, out.narrow(0, rank() * n, n));
    for (int r = 0; r < size(); ++r)
      expect(out.narrow(0, r * n, n), numbered(r, n), "all_gather in place");
  }

  void reduce_scatter(int64_t n, at::ScalarType dtype, bool in_place) const {
    at::Tensor in = random(rank(), size() * n, dtype).to(device_);
    const at::Tensor range = in.narrow(0, rank() * n, n);
    at::Tensor out = in_place ? range : at::full({n}, -1, dtype).to(device_);
    comm_.reduce_scatter(out, in);
    expect_sum(out, sum_by_hand(size(), size() * n, dtype).narrow(0, rank() * n, n),
               "reduce_scatter");
    const at::Tensor before = random(rank(), size() * n, dtype);
    if (in_place) in.narrow(0, rank() * n, n).copy_(before.narrow(0, rank() * n, n));
    expect(in, before, "reduce_scatter's input");
  }

  void all_reduce(int64_t n, at::ScalarType dtype) const {
    at::Tensor x = random(rank(), n, dtype).to(device_);
    comm_.all_reduce(x);
    expect_sum(x, sum_by_hand(size(), n, dtype), "all_reduce");
    at::Tensor all = at::empty({size(), n}, x.options());
    comm_.all_gather(all, x);  // every rank has the same bits
    for (int r = 0; r < size(); ++r) expect(all[r], x.cpu(), "all_reduce on other ranks");
  }

  // Rank r sends (r + 2 s) mod 3 rows to rank s: uneven, some none.
  void all_to_all(int64_t width) const {
    const auto rows = [](int from, int to) { return int64_t{(from + 2 * to) % 3}; };
    const auto row = [&](int from, int to, int64_t i) {
      return at::full({width}, 100.0 * from + 10.0 * to + static_cast<double>(i), at::kFloat);
    };
    const auto stack = [&](const std::vector<at::Tensor>& r) {
      return r.empty() ? at::empty({0, width}, at::kFloat) : at::stack(r);
    };
    std::vector<int64_t> send, receive;
    std::vector<at::Tensor> in_rows, out_rows;
    for (int r = 0; r < size(); ++r) {
      send.push_back(rows(rank(), r));
      receive.push_back(rows(r, rank()));
      for (int64_t i = 0; i < send.back(); ++i) in_rows.push_back(row(rank(), r, i));
      for (int64_t i = 0; i < receive.back(); ++i) out_rows.push_back(row(r, rank(), i));
    }
    at::Tensor out = at::full({static_cast<int64_t>(out_rows.size()), width}, -1.0, at::kFloat);
    out = out.to(device_);
    comm_.all_to_all(out, stack(in_rows).to(device_), receive, send);
    expect(out, stack(out_rows), "all_to_all");
  }

 private:
  int rank() const { return comm_.rank(); }
  int size() const { return comm_.size(); }

  void expect(const at::Tensor& got, const at::Tensor& expected, const char* what) const {
    TORCH_CHECK(at::equal(got.cpu(), expected), what, " of ", expected.sizes(), " ",
                expected.dtype(), " over ", size(), " ranks: got other values than expected");
  }
  // NCCL adds fp32 and fp64 in another order: a few ulp of the largest summand; bf16 and int64 are
  // exact in any case.
  void expect_sum(const at::Tensor& got, const at::Tensor& expected, const char* what) const {
    const auto t = expected.scalar_type();
    if (sums_ == Sums::in_rank_order || t == at::kBFloat16 || t == at::kLong)
      return expect(got, expected, what);
    if (expected.numel() == 0) return;
    const double worst = (got.cpu() - expected).abs().max().item<double>();
    const double ulp = t == at::kFloat ? std::ldexp(1.0, 20 - 24) : std::ldexp(1.0, 20 - 53);
    TORCH_CHECK(worst <= size() * ulp, what, " of ", expected.sizes(), " ", expected.dtype(),
                ": off by ", worst);
  }

  Comm& comm_;
  const at::Device device_;
  const Sums sums_;
};

}  // namespace conclave::comm
