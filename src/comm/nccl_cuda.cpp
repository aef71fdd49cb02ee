#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAFunctions.h>
#include <nccl.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "base/timer.h"
#include "comm/nccl.h"

namespace conclave::comm {
namespace {

using std::chrono::milliseconds;

ncclDataType_t nccl_type(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return ncclFloat32;
    case at::kDouble:
      return ncclFloat64;
    case at::kLong:
      return ncclInt64;
    default:
      TORCH_INTERNAL_ASSERT(false, "no sum of ", c10::toString(dtype));
  }
}

bool shares_gpu() {
  const char* share = std::getenv("CONCLAVE_SHARE_GPU");
  return share && std::strcmp(share, "1") == 0;
}

class Nccl final : public Transport {
 public:
  Nccl(const GroupPlace& place, const ncclUniqueId& id, double timeout)
      : rank_(place.rank), size_(place.size()), timeout_(timeout) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // a rank that does not come is noticed instead of waited for
    call("ncclCommInitRank",
         [&] { return ncclCommInitRankConfig(&comm_, size_, id, rank_, &config); });
  }
  // What is under way is waited for, unless a fault ends the process.
  ~Nccl() override {
    if (!comm_) return;
    const bool fault = std::uncaught_exceptions() > 0;
    if (!fault && (ncclCommFinalize(comm_) == ncclSuccess || settled() == ncclSuccess))
      ncclCommDestroy(comm_);
    else
      ncclCommAbort(comm_);
  }

  std::string compare(const Call&) override {
    TORCH_INTERNAL_ASSERT(false, "the transport of CPU tensors compares calls");
  }

  void all_gather(const at::Tensor& out, const at::Tensor& in) override {
    if (in.numel() == 0) return;
    call("ncclAllGather", [&] {
      return ncclAllGather(in.const_data_ptr(), out.mutable_data_ptr(), in.nbytes(), ncclInt8,
                           comm_, stream());
    });
  }

  void reduce_scatter(const at::Tensor& out, const at::Tensor& in) override {
    if (out.numel() == 0) return;
    if (in.scalar_type() == at::kBFloat16) return add_up_bf16(out, in);
    call("ncclReduceScatter", [&] {
      return ncclReduceScatter(in.const_data_ptr(), out.mutable_data_ptr(),
                               static_cast<size_t>(out.numel()), nccl_type(in.scalar_type()),
                               ncclSum, comm_, stream());
    });
  }

  void all_reduce(const at::Tensor& x) override {
    if (x.numel() == 0) return;
    if (x.scalar_type() != at::kBFloat16) {
      call("ncclAllReduce", [&] {
        return ncclAllReduce(x.const_data_ptr(), x.mutable_data_ptr(),
                             static_cast<size_t>(x.numel()), nccl_type(x.scalar_type()), ncclSum,
                             comm_, stream());
      });
      return;
    }
    const int64_t part = (x.numel() + size_ - 1) / size_;
    const at::Tensor whole = at::empty({size_ * part}, x.options());
    whole.narrow(0, 0, x.numel()).copy_(x.view({-1}));
    whole.narrow(0, x.numel(), whole.numel() - x.numel()).zero_();
    const at::Tensor mine = whole.narrow(0, rank_ * part, part);
    add_up_bf16(mine, whole);
    all_gather(whole, mine);
    x.view({-1}).copy_(whole.narrow(0, 0, x.numel()));
  }

  void all_to_all(const at::Tensor& out, const at::Tensor& in,
                  std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    const auto row = static_cast<size_t>(c10::multiply_integers(in.sizes().slice(1))) *
                     in.element_size();  // bytes
    if (row == 0) return;
    const auto* from = static_cast<const char*>(in.const_data_ptr());
    auto* to = static_cast<char*>(out.mutable_data_ptr());
    const cudaStream_t on = stream();
    call("ncclSend and ncclRecv", [&] {
      ncclGroupStart();
      for (int r = 0; r < size_; ++r) {
        const size_t send = static_cast<size_t>(send_rows[static_cast<size_t>(r)]) * row;
        const size_t receive = static_cast<size_t>(receive_rows[static_cast<size_t>(r)]) * row;
        if (send > 0) ncclSend(from, send, ncclInt8, r, comm_, on);
        if (receive > 0) ncclRecv(to, receive, ncclInt8, r, comm_, on);
        from += send;
        to += receive;
      }
      return ncclGroupEnd();
    });
  }

  void mark(int64_t sequence) override {
    at::cuda::CUDAEvent event;
    event.record();
    const std::lock_guard lock(mutex_);
    if (under_way_.empty()) since_.restart();
    under_way_.push_back({sequence, std::move(event)});
  }

  int64_t done() override {
    const std::lock_guard lock(mutex_);
    while (!under_way_.empty() && under_way_.front().second.query()) {
      done_ = under_way_.front().first;
      under_way_.pop_front();
      since_.restart();
    }
    return done_;
  }

  std::string trouble() override {
    if (const std::unique_lock lock(in_nccl_, std::try_to_lock); lock.owns_lock()) {
      const ncclResult_t now = state();
      if (now != ncclSuccess && now != ncclInProgress) return message(now, "NCCL");
    }  // else the other thread is in a call and looks itself
    const std::lock_guard lock(mutex_);
    if (under_way_.empty() || since_.seconds() < timeout_) return {};
    return format("no progress for %.0f s", since_.seconds());
  }

 private:
  static cudaStream_t stream() { return at::cuda::getCurrentCUDAStream(); }

  std::string message(ncclResult_t result, const char* what) const {
    return format("%s: %s (%s)", what, ncclGetErrorString(result), ncclGetLastError(comm_));
  }

  // With in_nccl_ held.
  ncclResult_t state() const {
    ncclResult_t now = ncclSuccess;
    return ncclCommGetAsyncError(comm_, &now) == ncclSuccess ? now : ncclInternalError;
  }

  // Waits until the communicator has taken what it was given, with `timeout_` as for a call; what
  // became of it.
  ncclResult_t settled() {
    const Timer timer;
    for (;;) {
      {
        const std::lock_guard lock(in_nccl_);
        if (const ncclResult_t now = state(); now != ncclInProgress) return now;
      }
      if (timer.seconds() > timeout_) return ncclInProgress;
      std::this_thread::sleep_for(timer.seconds() < 0.001 ? milliseconds(0) : milliseconds(1));
    }
  }

  template <class F>
  void call(const char* what, const F& f) {
    ncclResult_t result;
    {
      const std::lock_guard lock(in_nccl_);
      result = f();
    }
    if (result == ncclInProgress) result = settled();
    if (result == ncclInProgress)
      throw RunError(format("%s: not all ranks have come within %.0f s", what, timeout_));
    if (result != ncclSuccess) throw RunError(message(result, what));
  }

  // in [size · n] of each rank → out [n]: this rank's range, added in rank order in fp32.
  void add_up_bf16(const at::Tensor& out, const at::Tensor& in) {
    const std::vector<int64_t> rows(static_cast<size_t>(size_), out.numel());
    const at::Tensor parts = at::empty({size_ * out.numel()}, in.options());
    all_to_all(parts, in.view({-1}), rows, rows);
    at::Tensor sum = parts.narrow(0, 0, out.numel()).to(at::kFloat);
    for (int r = 1; r < size_; ++r) sum += parts.narrow(0, r * out.numel(), out.numel());
    out.view({-1}).copy_(sum);
  }

  const int rank_, size_;
  const double timeout_;
  ncclComm_t comm_ = nullptr;
  // Held in calls on the communicator: also a look at its state ends the job of a call that was
  // under way, which two threads at once would do twice.
  std::mutex in_nccl_;
  std::mutex mutex_;
  std::deque<std::pair<int64_t, at::cuda::CUDAEvent>> under_way_;
  Timer since_;  // the last progress of what is under way
  int64_t done_ = 0;
};

}  // namespace

std::string nccl_version() {
  int v = 0;
  ncclGetVersion(&v);
  return format("%d.%d.%d", v / 10000, v / 100 % 100, v % 100);
}

int choose_gpu(int rank, int local_rank, int local_world) {
  const int gpus = c10::cuda::device_count();
  if (gpus == 0) throw ConfigError("expected a GPU, found none; set device: cpu");
  if (local_world > gpus && !shares_gpu())
    throw ConfigError(
        format("%d ranks on a host with %d GPU%s; start one rank a GPU (for tests "
               "several share one with CONCLAVE_SHARE_GPU=1)",
               local_world, gpus, gpus == 1 ? "" : "s"));
  if (local_world > gpus) {
    // NCCL refuses two ranks on one GPU unless they seem to be on hosts of their own.
    ::setenv("NCCL_HOSTID", ("conclave-rank-" + std::to_string(rank)).c_str(), 1);
    ::setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    if (local_rank == 0) log_warn("ranks share a GPU and talk over sockets: for tests only");
  }
  // Groups' kernels start in the order of their calls, which is the same on all ranks: two on
  // streams of their own cannot wait for each other's place on the GPU.
  ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
  const int gpu = local_rank % gpus;
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(gpu));
  return gpu;
}

std::unique_ptr<Transport> nccl(const GroupPlace& place, Store& store, const std::string& prefix,
                                double timeout) {
  ncclUniqueId id;
  const std::string key = prefix + "/id";
  if (place.rank == 0) {
    if (const ncclResult_t r = ncclGetUniqueId(&id); r != ncclSuccess)
      throw RunError(
          format("ncclGetUniqueId: %s (%s)", ncclGetErrorString(r), ncclGetLastError(nullptr)));
    store.set(key, std::string(id.internal, sizeof id.internal));
  } else {
    const auto text = store.get(key, timeout);
    if (!text || text->size() != sizeof id.internal)
      throw RunError(format("rank %d, the group's first, has not come within %.0f s",
                            place.ranks.front(), timeout));
    std::memcpy(id.internal, text->data(), sizeof id.internal);
  }
  return std::make_unique<Nccl>(place, id, timeout);
}

}  // namespace conclave::comm
