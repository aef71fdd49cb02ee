#include "comm/process_comm.h"

#include <c10/util/Exception.h>

#include "base/fault.h"
#include "base/report.h"

namespace conclave::comm {
namespace {

class ProcessComm final : public Comm {
 public:
  ProcessComm(GroupPlace place, Transports transports, CallLog& log, Watch& watch)
      : place_(std::move(place)),
        transports_(std::move(transports)),
        log_(log),
        watch_(watch),
        group_(log.add_group(place_.name, place_.ranks, transports_.aside)) {
    if (!transports_.cuda) return;
    watch_.look_after(group_, [this] {
      log_.end_through(group_, transports_.cuda->done());
      return transports_.cuda->trouble();
    });
  }
  ~ProcessComm() override { watch_.forget(group_); }
  int rank() const override { return place_.rank; }
  int size() const override { return place_.size(); }

  void all_gather(at::Tensor out, const at::Tensor& in) override {
    run(all_gather_call(out, in, rank(), size()), in.device(),
        [&](Transport& t) { t.all_gather(out, in); });
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    run(reduce_scatter_call(out, in, rank(), size()), in.device(),
        [&](Transport& t) { t.reduce_scatter(out, in); });
  }
  void all_reduce(at::Tensor x) override {
    run(all_reduce_call(x), x.device(), [&](Transport& t) { t.all_reduce(x); });
  }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    run(all_to_all_call(out, in, receive_rows, send_rows, size()), in.device(),
        [&](Transport& t) { t.all_to_all(out, in, receive_rows, send_rows); });
  }
  void barrier() override {  // to compare is to wait for all
    run(barrier_call(), at::kCPU, [](Transport&) {});
  }

 private:
  template <class Work>
  void run(Call call, at::Device device, const Work& work) {
    TORCH_CHECK(device.is_cpu() || (device.is_cuda() && transports_.cuda), place_.name, ": ",
                call.op, ": expected tensors on the ", transports_.cuda ? "CPU or a GPU" : "CPU",
                ", got ", device);
    fault_point("comm.call");
    const int64_t sequence = log_.begin(group_, call);
    if (!transports_.aside) report(Report::doing, place_.name + " " + call.text());
    std::string differs, error;
    try {
      if (device.is_cpu() || transports_.compare_cuda) differs = transports_.cpu->compare(call);
      if (differs.empty()) work(device.is_cpu() ? *transports_.cpu : *transports_.cuda);
    } catch (const std::exception& e) {
      error = first_line(e);
    }
    if (!error.empty()) watch_.fail_call(group_, error);
    TORCH_CHECK(differs.empty(), place_.name, ": ", differs);
    if (device.is_cpu())
      log_.end(group_, sequence);
    else
      transports_.cuda->mark(sequence);
  }

  const GroupPlace place_;
  const Transports transports_;
  CallLog& log_;
  Watch& watch_;
  const int group_;  // in the log
};

}  // namespace

std::unique_ptr<Comm> process_comm(GroupPlace place, Transports transports, CallLog& log,
                                   Watch& watch) {
  return std::make_unique<ProcessComm>(std::move(place), std::move(transports), log, watch);
}

}  // namespace conclave::comm
