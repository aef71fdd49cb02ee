// A checkpoint in one file a rank, for stores that cannot write into the middle of a file: each
// rank writes what it holds, front to back, into rank-0000R-of-0000N.safetensors; rank_files.json
// says what the whole is. merge.h makes a model folder of it; load_tensors reads it as it is.
//   rank files: tensors [n] "FILE/NAME@FIRST": the elements FIRST … FIRST + n − 1 of tensor NAME,
//   row-major as the ranks hold it; FILE is the one that it belongs to, "model" for the weights.
//   rank_files.json: {"format": 1, "ranks": N, "max_shard_bytes": B, "tensors": {FILE: [[NAME,
//   TYPE, SHAPE, TRANSPOSED], …]}}, in the order of SharedContents.
#pragma once
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/load.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/shared_save.h"

namespace conclave::checkpoint {

constexpr const char* kRankFilesName = "rank_files.json";

// Whether the folder is of this form.
bool has_rank_files(const std::filesystem::path& folder);

// As save_folder of shared_save.h in this form: whole or not at all, refused unless each element is
// one rank's.
void save_rank_files(const std::filesystem::path& target, const SharedContents& contents,
                     comm::Comm& ranks);

class RankFiles {
 public:
  // Opens the files of all ranks and checks that they hold each element once. Throws RunError
  // naming what is missing or does not fit.
  explicit RankFiles(const std::filesystem::path& folder);

  struct Part {
    const SafetensorsFile* file = nullptr;
    std::string key;  // of the tensor in the file
    int64_t first = 0, count = 0;
  };
  struct Tensor {
    TensorPart described;     // without data
    std::vector<Part> parts;  // by first element
  };

  const std::filesystem::path& path() const { return path_; }
  int64_t ranks() const { return static_cast<int64_t>(files_.size()); }
  // Without data; with config.json and the other texts of the folder.
  const SharedContents& contents() const { return contents_; }
  // What rank r holds, with data that lies in its file: f(FILE or "" for the model, part).
  void each_part(int64_t rank,
                 const std::function<void(const std::string& of, const TensorPart&)>& f) const;
  // The tensors of the model ("") or of a file beside it. Throws RunError without such a file.
  const std::map<std::string, Tensor>& tensors(const std::string& of) const;
  // Those of a file, whole; for small ones.
  std::map<std::string, at::Tensor> read(const std::string& of) const;

 private:
  void describe();
  void open();
  void check_cover() const;

  std::filesystem::path path_;
  SharedContents contents_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;         // by rank
  std::map<std::string, std::map<std::string, Tensor>> found_;  // by file, "" the model
};

// Fills the targets from the model ("") or a file beside it. Each must be there with the target's
// shape and type; what else is there is another rank's.
void load_tensors(const RankFiles& files, const std::string& of,
                  std::span<const LoadTarget> targets);

}  // namespace conclave::checkpoint
