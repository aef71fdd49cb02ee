// Where the tensors of a folder lie in its files, from their names, types and shapes alone: the
// same on all ranks, and the same as one rank would write (save.h).
#pragma once
#include <map>
#include <string>
#include <vector>

#include "checkpoint/shared_save.h"

namespace conclave::checkpoint {

struct PlannedFile {
  std::string name;
  std::string header;  // its first bytes
  int64_t bytes = 0;   // of the whole file
};

struct SharedPlan {
  std::vector<PlannedFile> files;  // safetensors files
  std::string index_json;          // model.safetensors.index.json; empty: one model file
  struct Place {
    size_t file;
    int64_t begin;  // byte of the file
  };
  // By name, within the model and within each file beside it.
  std::map<std::string, Place> tensors;
  std::map<std::string, std::map<std::string, Place>> beside;
};

SharedPlan plan_files(const SharedContents& contents);

}  // namespace conclave::checkpoint
