#include "comm/dry.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <iomanip>
#include <map>
#include <sstream>

#include "comm/call.h"

namespace conclave::comm {
namespace {

class Dry final : public Comm {
 public:
  Dry(std::string group, int rank, int size, Ledger& ledger)
      : group_(std::move(group)), rank_(rank), size_(size), ledger_(ledger) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void all_gather(at::Tensor out, const at::Tensor& in) override {
    write(all_gather_call(out, in, rank_, size_), out.nbytes());
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    write(reduce_scatter_call(out, in, rank_, size_), in.nbytes());
  }
  void all_reduce(at::Tensor x) override { write(all_reduce_call(x), x.nbytes()); }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    write(all_to_all_call(out, in, receive_rows, send_rows, size_), in.nbytes());
  }
  void barrier() override { write(barrier_call(), 0); }

 private:
  void write(const Call& call, size_t bytes) {
    const bool typed = call.dtype != at::ScalarType::Undefined;
    ledger_.add(
        {group_, call.op, typed ? c10::toString(call.dtype) : "", static_cast<int64_t>(bytes)});
  }

  const std::string group_;
  const int rank_, size_;
  Ledger& ledger_;
};

}  // namespace

int64_t Ledger::bytes() const {
  int64_t sum = 0;
  for (const LedgerRow& row : rows_) sum += row.bytes;
  return sum;
}

std::string Ledger::table() const {
  struct Sum {
    int64_t calls = 0, bytes = 0;
  };
  std::map<std::pair<std::string, std::string>, Sum> sums;
  for (const LedgerRow& row : rows_) {
    Sum& sum = sums[{row.group, row.op}];
    ++sum.calls;
    sum.bytes += row.bytes;
  }
  std::ostringstream out;
  out << std::left << std::setw(14) << "group" << std::setw(16) << "operation" << std::right
      << std::setw(8) << "calls" << std::setw(16) << "bytes"
      << "\n";
  for (const auto& [key, sum] : sums)
    out << std::left << std::setw(14) << key.first << std::setw(16) << key.second << std::right
        << std::setw(8) << sum.calls << std::setw(16) << sum.bytes << "\n";
  return out.str();
}

std::unique_ptr<Comm> dry(std::string group, int rank, int size, Ledger& ledger) {
  TORCH_CHECK(0 <= rank && rank < size, "dry: expected a rank in 0 … ", size - 1, ", got ", rank);
  return std::make_unique<Dry>(std::move(group), rank, size, ledger);
}

}  // namespace conclave::comm
