// What moves data between the processes of one group: Gloo, NCCL. The calls are those of comm.h,
// with contracts checked and shapes compared before.
#pragma once
#include <ATen/core/Tensor.h>

#include <limits>
#include <span>
#include <string>
#include <vector>

#include "comm/call.h"

namespace conclave::comm {

// One group as one of its ranks sees it.
struct GroupPlace {
  std::string name;
  std::vector<int> ranks;  // of the world, ascending
  int rank = 0;            // this one's index in `ranks`
  int size() const { return static_cast<int>(ranks.size()); }
};

// All throw what the transport throws: a rank that is gone, a call that takes too long.
class Transport {
 public:
  virtual ~Transport() = default;
  // Collective: "" if all ranks make this call, else mismatch() of call.h. All have come when it
  // returns.
  virtual std::string compare(const Call& call) = 0;
  virtual void all_gather(const at::Tensor& out, const at::Tensor& in) = 0;
  virtual void reduce_scatter(const at::Tensor& out, const at::Tensor& in) = 0;
  virtual void all_reduce(const at::Tensor& x) = 0;
  virtual void all_to_all(const at::Tensor& out, const at::Tensor& in,
                          std::span<const int64_t> receive_rows,
                          std::span<const int64_t> send_rows) = 0;

  // For a transport whose calls return before they are done. What was called since the last mark
  // is call `sequence`.
  virtual void mark(int64_t sequence) {}
  // From any thread: the last call that is done, and what is wrong with those that are not.
  virtual int64_t done() { return std::numeric_limits<int64_t>::max(); }
  virtual std::string trouble() { return {}; }
};

}  // namespace conclave::comm
