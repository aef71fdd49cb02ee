// Ranks as processes that talk over TCP through Gloo, for tensors on the CPU. Gloo moves bytes
// alone: what is added up is added here, in rank order and in fp32 or wider, so the bits are those
// of thread ranks. Before each call the ranks compare what they call (one small all-gather more):
// a mismatch throws the same message on all of them.
#pragma once
#include <memory>

#include "comm/store.h"
#include "comm/transport.h"

namespace conclave::comm {

struct GlooOptions {
  double timeout = 0;     // seconds that a call may take
  bool one_host = false;  // all ranks are on this host: the loopback interface is used. Else
                          // GLOO_SOCKET_IFNAME names one, or the host's name finds it
};

// Collective over the group; `prefix` sets its keys in the store apart. Cost a call, n bytes of
// `in` or x, s ranks: all_gather sends (s−1)·n from each rank, reduce_scatter n, all_reduce 2·n
// (of less than 64 KiB: (s−1)·n, in one round).
std::unique_ptr<Transport> gloo(const GroupPlace& place, Store& store, const std::string& prefix,
                                const GlooOptions& options);

}  // namespace conclave::comm
