#include "comm/gloo.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#ifndef USE_C10D_GLOO
#define USE_C10D_GLOO
#endif
#include <cstdlib>
#include <cstring>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "comm/call.h"
#include "comm/rank_sum.h"

namespace conclave::comm {
namespace {

using c10d::ProcessGroupGloo;

constexpr size_t kOneRound = 64 << 10;  // bytes of an all_reduce up to which one round is quicker

at::Tensor bytes_of(const at::Tensor& x) {
  return at::from_blob(x.mutable_data_ptr(), {static_cast<int64_t>(x.nbytes())}, at::kByte);
}

void check_cpu(const at::Tensor& x) {
  TORCH_CHECK(x.is_cpu(), "gloo: expected CPU tensors, got ", x.device());
}

// A call as a row of int64, of the same length on all ranks: shapes of up to kDims dims are
// compared as they are, of longer ones the first kDims − 1 and the product of the rest.
constexpr int kDims = 8, kFixed = 4 + kDims;

std::vector<int64_t> packed(const Call& call, int size) {
  std::vector<int64_t> row(static_cast<size_t>(kFixed + 2 * size), -1);
  static_assert(sizeof(int64_t) == 8);
  char op[16] = {};
  std::strncpy(op, call.op.c_str(), sizeof op - 1);
  std::memcpy(row.data(), op, sizeof op);  // two words
  row[2] = static_cast<int64_t>(call.dtype);
  row[3] = call.sequence;
  for (size_t d = 0; d < call.shape.size(); ++d) {
    int64_t& at = row[4 + std::min<size_t>(d, kDims - 1)];
    at = d < kDims ? call.shape[d] : at * call.shape[d];
  }
  std::copy(call.send_rows.begin(), call.send_rows.end(), row.begin() + kFixed);
  std::copy(call.receive_rows.begin(), call.receive_rows.end(), row.begin() + kFixed + size);
  return row;
}

Call unpacked(const int64_t* row, int size) {
  Call call;
  char op[17] = {};
  std::memcpy(op, row, 16);
  call.op = op;
  call.dtype = static_cast<at::ScalarType>(row[2]);
  call.sequence = row[3];
  for (int d = 0; d < kDims && row[4 + d] >= 0; ++d) call.shape.push_back(row[4 + d]);
  if (call.op == "all_to_all") {
    call.send_rows.assign(row + kFixed, row + kFixed + size);
    call.receive_rows.assign(row + kFixed + size, row + kFixed + 2 * size);
  }
  return call;
}

class Gloo final : public Transport {
 public:
  Gloo(const GroupPlace& place, c10::intrusive_ptr<ProcessGroupGloo> group)
      : place_(place), group_(std::move(group)) {}

  std::string compare(const Call& call) override {
    const std::vector<int64_t> mine = packed(call, size());
    const auto n = static_cast<int64_t>(mine.size());
    std::vector<int64_t> all(mine.size() * static_cast<size_t>(size()));
    gather(at::from_blob(all.data(), {n * size()}, at::kLong),
           at::from_blob(const_cast<int64_t*>(mine.data()), {n}, at::kLong));
    std::vector<Call> calls;
    for (int r = 0; r < size(); ++r) calls.push_back(unpacked(all.data() + r * n, size()));
    return mismatch(calls, place_.ranks);
  }

  void all_gather(const at::Tensor& out, const at::Tensor& in) override {
    check_cpu(in);
    if (in.numel() > 0) gather(bytes_of(out), bytes_of(in));
  }

  void reduce_scatter(const at::Tensor& out, const at::Tensor& in) override {
    check_cpu(in);
    if (out.numel() == 0) return;
    const at::Tensor parts = at::empty({in.numel()}, in.options());
    exchange(bytes_of(parts), bytes_of(in), {}, {});
    add_up(parts, out);
  }

  void all_reduce(const at::Tensor& x) override {
    check_cpu(x);
    if (x.numel() == 0) return;
    if (x.nbytes() < kOneRound) {
      const at::Tensor parts = at::empty({size() * x.numel()}, x.options());
      gather(bytes_of(parts), bytes_of(x));
      return add_up(parts, x);
    }
    // Each rank adds up a part; all parts have one length, so the last ones may reach over the end.
    const int64_t part = (x.numel() + size() - 1) / size();
    const at::Tensor whole = at::empty({size() * part}, x.options());
    whole.narrow(0, 0, x.numel()).copy_(x.view({-1}));
    whole.narrow(0, x.numel(), whole.numel() - x.numel()).zero_();
    const at::Tensor parts = at::empty_like(whole);
    exchange(bytes_of(parts), bytes_of(whole), {}, {});
    const at::Tensor mine = whole.narrow(0, rank() * part, part);
    add_up(parts, mine);
    gather(bytes_of(whole), bytes_of(mine));
    x.view({-1}).copy_(whole.narrow(0, 0, x.numel()));
  }

  void all_to_all(const at::Tensor& out, const at::Tensor& in,
                  std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    check_cpu(in);
    const auto row = static_cast<int64_t>(in.element_size()) *
                     c10::multiply_integers(in.sizes().slice(1));  // bytes
    if (row == 0) return;
    std::vector<int64_t> receive(receive_rows.begin(), receive_rows.end());
    std::vector<int64_t> send(send_rows.begin(), send_rows.end());
    for (int64_t& n : receive) n *= row;
    for (int64_t& n : send) n *= row;
    exchange(bytes_of(out), bytes_of(in), std::move(receive), std::move(send));
  }

 private:
  int rank() const { return place_.rank; }
  int size() const { return place_.size(); }

  // parts [size, n] → out [n], the sum over ranks.
  void add_up(const at::Tensor& parts, const at::Tensor& out) {
    with_sum_type(out.scalar_type(), [&]<class T, class Sum>(T, Sum) {
      const auto* from = static_cast<const T*>(parts.const_data_ptr());
      auto* to = static_cast<T*>(out.mutable_data_ptr());
      sum_in_rank_order<T, Sum>(
          size(), out.numel(), [&](int r) { return from + r * out.numel(); },
          [&](int64_t begin, int64_t n, const T* sums) { std::copy_n(sums, n, to + begin); });
    });
  }

  void gather(at::Tensor out, at::Tensor in) { group_->_allgather_base(out, in)->wait(); }
  // Bytes for each rank and of each; none given: all alike.
  void exchange(at::Tensor out, at::Tensor in, std::vector<int64_t> receive,
                std::vector<int64_t> send) {
    group_->alltoall_base(out, in, receive, send)->wait();
  }

  const GroupPlace place_;
  c10::intrusive_ptr<ProcessGroupGloo> group_;
};

}  // namespace

std::unique_ptr<Transport> gloo(const GroupPlace& place, Store& store, const std::string& prefix,
                                const GlooOptions& options) {
  auto o = ProcessGroupGloo::Options::create(
      std::chrono::milliseconds(static_cast<int64_t>(options.timeout * 1000)));
  o->threads = 1;  // one call at a time
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface && *interface)
    o->devices = {ProcessGroupGloo::createDeviceForInterface(interface)};
  else if (options.one_host)
    o->devices = {ProcessGroupGloo::createDeviceForHostname("127.0.0.1")};
  else
    o->devices = {ProcessGroupGloo::createDefaultDevice()};
  auto group = c10::make_intrusive<ProcessGroupGloo>(
      c10::make_intrusive<c10d::PrefixStore>(prefix, store.c10d_store()), place.rank, place.size(),
      o);
  return std::make_unique<Gloo>(place, std::move(group));
}

}  // namespace conclave::comm
