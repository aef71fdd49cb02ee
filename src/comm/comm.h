// Communication between ranks: one interface, several back ends. Every call is collective over the
// group, in the same order with the same shapes and dtypes on each rank. Reductions are sums,
// always (no per-group factors), in rank order 0 … size−1.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>

namespace conclave::comm {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // out [size · n] ← in [n] of each rank, in rank order. `in` may be this rank's range of `out`.
  virtual void all_gather(at::Tensor out, const at::Tensor& in) = 0;
  // out [n] ← this rank's range of Σ over ranks of in [size · n]. `out` may be this rank's range of
  // `in`.
  virtual void reduce_scatter(at::Tensor out, const at::Tensor& in) = 0;
  // x ← Σ over ranks of x.
  virtual void all_reduce(at::Tensor x) = 0;
  // Rows (dim 0) of `in`, `send_rows[r]` to rank r; rows of `out`, `receive_rows[r]` from rank r,
  // both in rank order.
  virtual void all_to_all(at::Tensor out, const at::Tensor& in,
                          std::span<const int64_t> receive_rows,
                          std::span<const int64_t> send_rows) = 0;
  virtual void barrier() = 0;
};

// The group of one rank: copies, no waiting.
std::unique_ptr<Comm> single();

// Ranks as threads of this process: runs `body(comm)` on `size` threads and joins them. A mismatch
// between ranks (operation, shape, dtype, order) throws on all of them a message that names both
// ranks' calls; so does a rank that leaves while others wait. The first exception (lowest rank) is
// thrown again here.
void run_threads(int size, const std::function<void(Comm&)>& body);

}  // namespace conclave::comm
