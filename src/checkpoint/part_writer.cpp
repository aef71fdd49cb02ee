#include "checkpoint/part_writer.h"

#include <c10/util/Exception.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "base/files.h"
#include "base/hash.h"

namespace conclave::checkpoint {

namespace fs = std::filesystem;

void make_files(const fs::path& folder, const SharedPlan& plan) {
  for (const PlannedFile& file : plan.files) {
    const fs::path path = folder / file.name;
    OutputFile out(path);
    out.write(file.header);
    out.finish();
    if (::truncate(path.c_str(), file.bytes) != 0) throw_errno(path, "write");
  }
}

class PartWriter::File {
 public:
  explicit File(const fs::path& path) : path_(path) {
    do fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) throw_errno(path, "open");
  }
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  void write(const void* bytes, int64_t size, int64_t at) {
    each_run(
        size,
        [&](int64_t done, size_t most) {
          return ::pwrite(fd_, static_cast<const char*>(bytes) + done, most, at + done);
        },
        "write");
  }
  void read(void* bytes, int64_t size, int64_t at) {
    each_run(
        size,
        [&](int64_t done, size_t most) {
          return ::pread(fd_, static_cast<char*>(bytes) + done, most, at + done);
        },
        "read");
  }
  void sync() {
    if (::fsync(fd_) != 0) throw_errno(path_, "write");
  }

 private:
  template <class Call>
  void each_run(int64_t size, const Call& call, const char* action) {
    constexpr int64_t kMost = int64_t{1} << 30;  // Linux moves less than 2 GiB a call
    for (int64_t done = 0; done < size;) {
      const ssize_t n = call(done, static_cast<size_t>(std::min(size - done, kMost)));
      if (n < 0 && errno == EINTR) continue;
      if (n == 0) errno = EIO;
      if (n <= 0) throw_errno(path_, action);
      done += n;
    }
  }

  const fs::path path_;
  int fd_;
};

PartWriter::PartWriter(const fs::path& folder, const SharedPlan& plan)
    : folder_(folder), plan_(plan) {}
PartWriter::~PartWriter() = default;
PartWriter::PartWriter(PartWriter&&) noexcept = default;

PartWriter::File& PartWriter::open(size_t file) {
  auto& placed = files_[file];
  if (!placed) placed = std::make_unique<File>(folder_ / plan_.files[file].name);
  return *placed;
}

void PartWriter::put(size_t file, const at::Tensor& values, int64_t at) {
  const auto size = static_cast<int64_t>(values.nbytes());
  open(file).write(values.const_data_ptr(), size, at);
  regions_.push_back(
      {file, at, at + size,
       xxh3({static_cast<const std::byte*>(values.const_data_ptr()), static_cast<size_t>(size)})});
}

void PartWriter::sync() {
  for (auto& [file, placed] : files_) placed->sync();
  files_.clear();
}

void PartWriter::write(const std::string& of, const TensorPart& part) {
  const SharedPlan::Place at = (of.empty() ? plan_.tensors : plan_.beside.at(of)).at(part.name);
  const int64_t element = static_cast<int64_t>(c10::elementSize(part.dtype)), n = part.data.numel();
  if (!part.transposed) return put(at.file, part.data, at.begin + part.first * element);
  const int64_t rows = part.shape[part.shape.size() - 2], cols = part.shape.back(),
                matrix = rows * cols;
  for (int64_t begin = part.first; begin < part.first + n;) {
    const int64_t m = begin / matrix, end = std::min((m + 1) * matrix, part.first + n);
    const at::Tensor values = part.data.view({-1}).narrow(0, begin - part.first, end - begin);
    const int64_t to = at.begin + m * matrix * element;
    if (end - begin == matrix)
      put(at.file, values.view({rows, cols}).transpose(0, 1).contiguous(), to);
    else
      put_columns(at.file, values, begin - m * matrix, rows, cols, to);
    begin = end;
  }
}

// A matrix [rows, cols], of which this rank has elements first … : in the file, where it is [cols,
// rows], they are a run in each column.
void PartWriter::put_columns(size_t file, const at::Tensor& values, int64_t first, int64_t rows,
                             int64_t cols, int64_t at) {
  const auto element = static_cast<size_t>(values.element_size());
  const auto* from = static_cast<const char*>(values.const_data_ptr());
  const int64_t last = first + values.numel();
  const auto row_from = [&](int64_t i, int64_t c) { return (i - c + cols - 1) / cols; };
  std::vector<char> run;
  for (int64_t c = 0; c < cols; ++c) {
    const int64_t begin = first > c ? row_from(first, c) : 0,
                  end = last > c ? row_from(last, c) : 0;
    if (begin >= end) continue;
    run.resize(static_cast<size_t>(end - begin) * element);
    for (int64_t r = begin; r < end; ++r)
      std::copy_n(from + static_cast<size_t>(r * cols + c - first) * element, element,
                  run.data() + static_cast<size_t>(r - begin) * element);
    open(file).write(run.data(), static_cast<int64_t>(run.size()),
                     at + (c * rows + begin) * static_cast<int64_t>(element));
  }
  const int64_t size = rows * cols * static_cast<int64_t>(element);
  if (first == 0) shared_.push_back({file, at, at + size, 0});
}

void PartWriter::read_shared() {
  std::vector<std::byte> bytes;
  for (Region region : shared_) {
    bytes.resize(static_cast<size_t>(region.end - region.begin));
    open(region.file).read(bytes.data(), region.end - region.begin, region.begin);
    region.xxh3 = xxh3(bytes);
    regions_.push_back(region);
  }
}

std::string PartWriter::report() const {
  std::string text;
  for (const Region& r : regions_)
    if (r.begin < r.end)
      text += std::to_string(r.file) + " " + std::to_string(r.begin) + " " + std::to_string(r.end) +
              " " + hash_hex(r.xxh3) + "\n";
  return text;
}

void add_files(Manifest& manifest, const SharedPlan& plan,
               const std::vector<std::string>& reports) {
  using Region = PartWriter::Region;
  std::vector<std::map<int64_t, Region>> regions(plan.files.size());
  for (size_t f = 0; f < plan.files.size(); ++f) {
    const auto size = static_cast<int64_t>(plan.files[f].header.size());
    regions[f][0] = {f, 0, size, xxh3(std::as_bytes(std::span(plan.files[f].header)))};
  }
  for (const std::string& report : reports) {
    std::istringstream lines(report);
    Region r{};
    std::string hash;
    while (lines >> r.file >> r.begin >> r.end >> hash) {
      r.xxh3 = std::stoull(hash, nullptr, 16);
      TORCH_CHECK(regions.at(r.file).emplace(r.begin, r).second, plan.files[r.file].name,
                  ": two ranks wrote byte ", r.begin);
    }
  }
  for (size_t f = 0; f < plan.files.size(); ++f) {
    WrittenFile written{.bytes = plan.files[f].bytes};
    int64_t end = 0;
    for (const auto& [begin, r] : regions[f]) {
      TORCH_CHECK(begin == end, plan.files[f].name, ": bytes ", std::min(begin, end), " to ",
                  std::max(begin, end), begin > end ? " were written by no rank" : " by two ranks");
      end = r.end;
      written.parts.push_back({r.end, r.xxh3});
    }
    TORCH_CHECK(end == written.bytes, plan.files[f].name, ": bytes ", end, " to ", written.bytes,
                " were written by no rank");
    manifest[plan.files[f].name] = std::move(written);
  }
}

}  // namespace conclave::checkpoint
