// The group of one rank: what is sent is what is received.
#include "comm/call.h"
#include "comm/comm.h"

namespace conclave::comm {
namespace {

class Single final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void all_gather(at::Tensor out, const at::Tensor& in) override {
    all_gather_call(out, in, 0, 1);
    copy(out, in);
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    reduce_scatter_call(out, in, 0, 1);
    copy(out, in);
  }
  void all_reduce(at::Tensor x) override { all_reduce_call(x); }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    all_to_all_call(out, in, receive_rows, send_rows, 1);
    copy(out, in);
  }
  void barrier() override {}

 private:
  static void copy(const at::Tensor& out, const at::Tensor& in) {
    if (out.const_data_ptr() != in.const_data_ptr()) out.view({-1}).copy_(in.view({-1}));
  }
};

}  // namespace

std::unique_ptr<Comm> single() { return std::make_unique<Single>(); }

}  // namespace conclave::comm
