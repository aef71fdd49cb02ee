#include "checkpoint/load.h"

#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/convert.h"
#include "checkpoint/dtype.h"

namespace conclave::checkpoint {
namespace {

using Places = std::map<std::string, HfFolder::Place>;

class ReadOnly {  // a file descriptor
 public:
  explicit ReadOnly(const std::string& path)
      : path_(path), fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw_errno(path_, "open");
  }
  ReadOnly(const ReadOnly&) = delete;
  ~ReadOnly() { close(fd_); }

  void read(void* into, int64_t at, int64_t bytes) const {
    for (auto* to = static_cast<char*>(into); bytes > 0;) {
      const ssize_t got = pread(fd_, to, static_cast<size_t>(bytes), at);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_errno(path_, "read");
      if (got == 0)
        throw RunError(path_ + ": ended while it was read; is another program writing it?");
      to += got, at += got, bytes -= got;
    }
  }

 private:
  std::string path_;
  int fd_;
};

// One part of one tensor: at most kChunk bytes of the file, so that threads share large tensors and
// small ones alike.
struct Chunk {
  const ReadOnly* file;
  int64_t at;  // byte of the file
  int64_t count;
  at::ScalarType from, to;
  char* into;

  int64_t bytes() const { return count * static_cast<int64_t>(c10::elementSize(from)); }
};

constexpr int64_t kChunk = int64_t{4} << 20;
constexpr int64_t kConvertChunk = int64_t{256}
                                  << 10;  // stays in the cache between reading and converting

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> dims;
  for (int64_t dim : shape) dims.push_back(std::to_string(dim));
  return "[" + join(dims, ", ") + "]";
}

// `*` in the pattern stands for any run of characters.
bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*')
    return !name.empty() && pattern[0] == name[0] && matches(pattern.substr(1), name.substr(1));
  for (size_t cut = 0; cut <= name.size(); ++cut)
    if (matches(pattern.substr(1), name.substr(cut))) return true;
  return false;
}

// What is wrong with a target, or "".
std::string complaint(const LoadTarget& target, const Places& places) {
  const auto found = places.find(target.name);
  if (found == places.end())
    return "`" + target.name + "` is missing (expected " + shape_text(target.shape) + ")";
  const TensorInfo& tensor = *found->second.tensor;
  if (tensor.shape != target.shape)
    return "`" + target.name + "`: expected " + shape_text(target.shape) + ", found " +
           shape_text(tensor.shape);
  if (!can_convert(tensor.dtype, target.into.scalar_type()))
    return "`" + target.name + "`: expected " + std::string(dtype_name(target.into.scalar_type())) +
           " or what converts to it, found " + std::string(dtype_name(tensor.dtype));
  return "";
}

void check_names(const std::string& where, const Places& places,
                 std::span<const LoadTarget> targets, std::span<const std::string> ignore) {
  std::vector<std::string> wrong;
  std::set<std::string> wanted;
  for (const LoadTarget& target : targets) {
    wanted.insert(target.name);
    if (auto text = complaint(target, places); !text.empty()) wrong.push_back(text);
  }
  for (const auto& [name, place] : places) {
    const bool ignored =
        std::any_of(ignore.begin(), ignore.end(), [&](const auto& p) { return matches(p, name); });
    if (!wanted.contains(name) && !ignored)
      wrong.push_back("`" + name + "` " + shape_text(place.tensor->shape) +
                      " is not part of the model");
  }
  if (wrong.empty()) return;
  constexpr size_t kShown = 5;
  const size_t all = wrong.size();
  wrong.resize(std::min(all, kShown));
  throw RunError(where + ": its tensors are not the model's: " + join(wrong, "; ") +
                 (all > kShown ? format("; and %zu more", all - kShown) : ""));
}

void check_contract(const LoadTarget& target) {
  int64_t whole = 1;
  for (int64_t dim : target.shape) whole *= dim;
  TORCH_CHECK(target.into.defined() && target.into.is_cpu() && target.into.is_contiguous(),
              "load: `", target.name, "`: expected a contiguous CPU tensor to load into");
  TORCH_CHECK(target.first >= 0 && target.first + target.into.numel() <= whole, "load: `",
              target.name, "`: expected elements within 0 … ", whole, ", got ", target.first, " … ",
              target.first + target.into.numel());
}

std::vector<Chunk> cut_chunks(
    const Places& places, std::span<const LoadTarget> targets,
    const std::function<const ReadOnly*(const SafetensorsFile*)>& opened) {
  std::vector<Chunk> chunks;
  for (const LoadTarget& target : targets) {
    const auto& [file, tensor] = places.at(target.name);
    const auto from_size = static_cast<int64_t>(c10::elementSize(tensor->dtype));
    const auto to_size = static_cast<int64_t>(target.into.element_size());
    const int64_t step =
        (tensor->dtype == target.into.scalar_type() ? kChunk : kConvertChunk) / from_size;
    auto* into = static_cast<char*>(target.into.data_ptr());
    for (int64_t done = 0; done < target.into.numel(); done += step)
      chunks.push_back({opened(file), tensor->begin + (target.first + done) * from_size,
                        std::min(step, target.into.numel() - done), tensor->dtype,
                        target.into.scalar_type(), into + done * to_size});
  }
  return chunks;
}

void read_chunks(const std::vector<Chunk>& chunks) {
  std::atomic<size_t> next = 0;
  const int threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    std::vector<char> raw;
    for (size_t i = next++; i < chunks.size(); i = next++) {
      const Chunk& chunk = chunks[i];
      if (chunk.from == chunk.to) {
        chunk.file->read(chunk.into, chunk.at, chunk.bytes());
      } else {
        raw.resize(kConvertChunk);
        chunk.file->read(raw.data(), chunk.at, chunk.bytes());
        convert(raw.data(), chunk.from, chunk.into, chunk.to, chunk.count);
      }
    }
  });
}

// Fresh memory costs a fault a page when it is first written, more than the copy itself: pages of 2
// MiB make that small. A hint; where the kernel does not take it nothing changes.
void advise_large_pages(std::span<const LoadTarget> targets) {
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  std::set<void*> seen;
  for (const LoadTarget& target : targets) {
    const at::Storage& storage = target.into.storage();
    if (!seen.insert(storage.mutable_data()).second) continue;
    const auto data = reinterpret_cast<uintptr_t>(storage.mutable_data());
    const uintptr_t begin = (data + kPage - 1) / kPage * kPage,
                    end = (data + storage.nbytes()) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
}

void load_places(const std::string& where, const Places& places,
                 std::span<const LoadTarget> targets, std::span<const std::string> ignore) {
  for (const LoadTarget& target : targets) check_contract(target);
  check_names(where, places, targets, ignore);
  advise_large_pages(targets);
  std::map<const SafetensorsFile*, std::unique_ptr<ReadOnly>> files;
  read_chunks(cut_chunks(places, targets, [&](const SafetensorsFile* file) {
    auto& opened = files[file];
    if (!opened) opened = std::make_unique<ReadOnly>(file->path());
    return opened.get();
  }));
}

}  // namespace

void load_tensors(const HfFolder& folder, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore) {
  load_places(folder.path(), folder.tensors(), targets, ignore);
}

void load_tensors(const SafetensorsFile& file, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore) {
  Places places;
  for (const TensorInfo& tensor : file.tensors()) places[tensor.name] = {&file, &tensor};
  load_places(file.path(), places, targets, ignore);
}

}  // namespace conclave::checkpoint
