// The elements of tensors into the files of a folder, which are there at their full size: what each
// rank does in a save by all (shared_save.h), and who joins the files of ranks (merge.h).
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "checkpoint/shared_plan.h"

namespace conclave::checkpoint {

// The files of the plan at their full size with their headers.
void make_files(const std::filesystem::path& folder, const SharedPlan& plan);

// One rank's part of the files.
class PartWriter {
 public:
  // `plan` outlives it.
  PartWriter(const std::filesystem::path& folder, const SharedPlan& plan);
  ~PartWriter();
  PartWriter(PartWriter&&) noexcept;

  // `of`: the file beside the model that the tensor belongs to, or "" for the model's.
  void write(const std::string& of, const TensorPart& part);
  // After all ranks have written: matrices that several ranks wrote are read for their checksum.
  void read_shared();
  void sync();                 // fsyncs and closes the files
  std::string report() const;  // what this rank wrote, with checksums: for add_files

 private:
  class File;
  struct Region {  // of a file, with the checksum of its bytes
    size_t file;
    int64_t begin, end;
    uint64_t xxh3;
  };
  friend void add_files(Manifest&, const SharedPlan&, const std::vector<std::string>&);
  File& open(size_t file);
  void put(size_t file, const at::Tensor& values, int64_t at);
  void put_columns(size_t file, const at::Tensor& values, int64_t first, int64_t rows, int64_t cols,
                   int64_t at);

  std::filesystem::path folder_;
  const SharedPlan& plan_;
  std::map<size_t, std::unique_ptr<File>> files_;
  std::vector<Region> regions_, shared_;
};

// The manifest's entries from all ranks' reports, which must cover the files once.
void add_files(Manifest& manifest, const SharedPlan& plan, const std::vector<std::string>& reports);

}  // namespace conclave::checkpoint
