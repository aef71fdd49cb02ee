// A group of processes: each call is checked, numbered, logged, told to the launcher and given to
// the transport of its tensors' device; a call that fails says which rank is missing.
#pragma once
#include <memory>

#include "comm/comm.h"
#include "comm/transport.h"
#include "comm/watch.h"

namespace conclave::comm {

struct Transports {
  std::unique_ptr<Transport> cpu;
  std::unique_ptr<Transport> cuda;  // none: CPU tensors alone
  // Whether calls on CUDA tensors are compared too, which makes the host wait for all ranks in each
  // (the device goes on). Those on CPU tensors always are.
  bool compare_cuda = false;
  // The group is for another thread than the main one: a launcher is not told of its calls.
  bool aside = false;
};

// The log and the watch outlive it.
std::unique_ptr<Comm> process_comm(GroupPlace place, Transports transports, CallLog& log,
                                   Watch& watch);

}  // namespace conclave::comm
