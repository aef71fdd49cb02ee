// Ranks as processes with a GPU each that talk through NCCL, for tensors there. Calls are enqueued
// on the current stream and return at once. Built with CUDA alone.
#pragma once
#include <memory>
#include <string>

#include "comm/store.h"
#include "comm/transport.h"

namespace conclave::comm {

// NCCL's version at run time, e.g. "2.28.9".
std::string nccl_version();

// Makes this rank's GPU the current device and returns its index. Several ranks on one GPU are
// refused with ConfigError unless CONCLAVE_SHARE_GPU=1 is set: for tests, over sockets.
int choose_gpu(int rank, int local_rank, int local_world);

// Collective over the group; `prefix` sets its keys in the store apart. A call that shows no
// progress for `timeout` seconds while it is the group's oldest is trouble.
// Sums: fp32, fp64 and int64 are added by NCCL, in the order of its rings or trees: the same on
// every rank and in every run on the same hosts, but not rank order. bf16 goes to the rank that
// adds it up in rank order in fp32, rounded once, as comm.h promises: the bytes on the wire are
// those of NCCL's own.
std::unique_ptr<Transport> nccl(const GroupPlace& place, Store& store, const std::string& prefix,
                                double timeout);

}  // namespace conclave::comm
