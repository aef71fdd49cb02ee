// What makes two processes the same program.
#pragma once
#include <string>

namespace conclave::comm {

// Lines "conclave: <hash of the file>" and one for each loaded library that computes or talks
// (libtorch, CUDA, NCCL), "libnccl.so.2: <its build id>", sorted. Reads the program's file once.
std::string program_lines();

}  // namespace conclave::comm
