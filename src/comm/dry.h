// Ranks that are not there: every call is checked and written to a ledger, no data moves. Tensors
// may be meta tensors; outputs keep what they held. For forecasts and for comparing the programs of
// ranks.
#pragma once
#include <string>
#include <vector>

#include "comm/comm.h"

namespace conclave::comm {

struct LedgerRow {
  std::string group;  // e.g. "dp"
  std::string op;
  std::string dtype;  // empty for a barrier
  // Of the whole buffer: the larger of `in` and `out`, x of an all_reduce; all_to_all: `in`, what
  // this rank sends; barrier: 0.
  int64_t bytes = 0;
  bool operator==(const LedgerRow&) const = default;
};

class Ledger {
 public:
  void add(LedgerRow row) { rows_.push_back(std::move(row)); }
  const std::vector<LedgerRow>& rows() const { return rows_; }  // in the order of the calls
  int64_t bytes() const;
  // One line a (group, op): calls and bytes.
  std::string table() const;

 private:
  std::vector<LedgerRow> rows_;
};

// Rank `rank` of `size` in the group of that name. The ledger must outlive the Comm.
std::unique_ptr<Comm> dry(std::string group, int rank, int size, Ledger& ledger);

}  // namespace conclave::comm
