// One collective call as one rank makes it: what all ranks must agree on, and what each must have
// right by itself. Every back end checks its calls here, so they refuse the same things.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

namespace conclave::comm {

struct Call {
  std::string op;
  at::ScalarType dtype = at::ScalarType::Undefined;
  std::vector<int64_t> shape;                    // of `in` or x; all_to_all: of one row
  std::vector<int64_t> send_rows, receive_rows;  // all_to_all alone
  int64_t sequence = 0;  // this rank's how many-th call on the group, from 1

  std::string text() const;  // e.g. "#3 all_reduce Float [4, 2]"
};

// The contract on one rank: defined, contiguous tensors of one dtype and device and of the sizes in
// comm.h, any number of dims; `in` and `out` share memory only as comm.h allows. Throws c10::Error.
Call all_gather_call(const at::Tensor& out, const at::Tensor& in, int rank, int size);
Call reduce_scatter_call(const at::Tensor& out, const at::Tensor& in, int rank, int size);
Call all_reduce_call(const at::Tensor& x);
Call all_to_all_call(const at::Tensor& out, const at::Tensor& in,
                     std::span<const int64_t> receive_rows, std::span<const int64_t> send_rows,
                     int size);
Call barrier_call();

// Calls of ranks 0 … size−1 that meet. Empty if they match, else one line that names the first two
// ranks that differ and what each called; `names` are what to call the ranks, if not 0 … size−1.
std::string mismatch(std::span<const Call> calls, std::span<const int> names = {});

}  // namespace conclave::comm
