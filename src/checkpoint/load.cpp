#include "checkpoint/load.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <set>

#include "base/error.h"
#include "base/text.h"
#include "checkpoint/chunk.h"

namespace conclave::checkpoint {
namespace {

// `*` in the pattern stands for any run of characters.
bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.empty()) return name.empty();
  if (pattern[0] != '*')
    return !name.empty() && pattern[0] == name[0] && matches(pattern.substr(1), name.substr(1));
  for (size_t cut = 0; cut <= name.size(); ++cut)
    if (matches(pattern.substr(1), name.substr(cut))) return true;
  return false;
}

void check_names(const std::string& where, const Places& places,
                 std::span<const LoadTarget> targets, std::span<const Source> sources,
                 std::span<const std::string> ignore) {
  std::vector<std::string> wrong;
  std::set<std::string> wanted;
  for (size_t i = 0; i < sources.size(); ++i) {
    const Stored& stored = sources[i].stored;
    for (std::string& name : names_of(targets[i].name, stored.form)) wanted.insert(std::move(name));
    if (!stored.complaint.empty()) wrong.push_back(stored.complaint);
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
  TORCH_CHECK(target.into.defined() && target.into.is_contiguous(), "load: `", target.name,
              "`: expected a contiguous tensor to load into");
  TORCH_CHECK(target.first >= 0 && target.first + target.into.numel() <= whole, "load: `",
              target.name, "`: expected elements within 0 … ", whole, ", got ", target.first, " … ",
              target.first + target.into.numel());
  TORCH_CHECK(!target.transposed || target.shape.size() >= 2, "load: `", target.name,
              "`: expected at least two dims to be transposed");
}

void read_chunks(std::span<const Source> sources) {
  std::vector<Chunk> chunks;
  for (const Source& source : sources) cut_chunks(source, chunks);
  std::atomic<size_t> next = 0;
  const int threads = at::get_num_threads();
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    ChunkReader reader;
    for (size_t i = next++; i < chunks.size(); i = next++) reader.read(chunks[i]);
  });
}

// Fresh memory costs a fault a page when it is first written, more than the copy itself: pages of 2
// MiB make that small. A hint; where the kernel does not take it nothing changes.
void advise_large_pages(std::span<const LoadTarget> targets) {
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  std::set<void*> seen;
  for (const LoadTarget& target : targets) {
    if (!target.into.is_cpu()) continue;
    const at::Storage& storage = target.into.storage();
    if (!seen.insert(storage.mutable_data()).second) continue;
    const auto data = reinterpret_cast<uintptr_t>(storage.mutable_data());
    const uintptr_t begin = (data + kPage - 1) / kPage * kPage,
                    end = (data + storage.nbytes()) / kPage * kPage;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
}

int64_t aligned_bytes(const at::Tensor& t) {
  constexpr int64_t kAlign = 64;
  return (static_cast<int64_t>(t.nbytes()) + kAlign - 1) / kAlign * kAlign;
}

// Targets on a GPU: read in runs of at most kStage bytes (a larger one stands alone) into pinned
// memory, and copied from there while the next run is read.
void read_staged(std::span<Source> sources) {
  constexpr int64_t kStage = int64_t{1} << 30;
  while (!sources.empty()) {
    size_t count = 0;
    int64_t bytes = 0;
    for (; count < sources.size(); ++count) {
      const int64_t more = aligned_bytes(sources[count].target->into);
      if (count > 0 && bytes + more > kStage) break;
      bytes += more;
    }
    // The allocator keeps it until the copies from it are done.
    const at::Tensor stage =
        at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    std::vector<LoadTarget> staged;
    staged.reserve(count);
    int64_t at = 0;
    for (Source& source : sources.first(count)) {
      staged.push_back(*source.target);
      at::Tensor& into = staged.back().into;
      const auto n = static_cast<int64_t>(into.nbytes());
      into = stage.narrow(0, at, n).view(into.scalar_type()).view(into.sizes());
      at += aligned_bytes(into);
    }
    std::vector<Source> here(sources.begin(), sources.begin() + static_cast<ptrdiff_t>(count));
    for (size_t i = 0; i < count; ++i) here[i].target = &staged[i];
    read_chunks(here);
    for (size_t i = 0; i < count; ++i)
      sources[i].target->into.copy_(staged[i].into, /*non_blocking=*/true);
    sources = sources.subspan(count);
  }
}

// How each target is stored; `folder` where there is one.
std::vector<Source> find_sources(const Places& places, std::span<const LoadTarget> targets,
                                 const HfFolder* folder) {
  std::vector<Source> sources;
  bool fp8 = false;
  for (const LoadTarget& target : targets) {
    check_contract(target);
    sources.push_back({.stored = find_stored(target, places), .target = &target});
    fp8 |= sources.back().stored.form == Form::fp8;
  }
  if (fp8 && folder) check_fp8_config(*folder);
  return sources;
}

void load_places(const std::string& where, const Places& places,
                 std::span<const LoadTarget> targets, std::span<const std::string> ignore,
                 const HfFolder* folder) {
  std::vector<Source> sources = find_sources(places, targets, folder);
  check_names(where, places, targets, sources, ignore);
  advise_large_pages(targets);
  std::map<const SafetensorsFile*, std::unique_ptr<InputFile>> files;
  const auto open = [&](const HfFolder::Place& place) -> const InputFile* {
    if (!place.file) return nullptr;
    auto& opened = files[place.file];
    if (!opened) opened = std::make_unique<InputFile>(place.file->path());
    return opened.get();
  };
  for (Source& source : sources) {
    source.values = open(source.stored.values);
    source.scales = open(source.stored.scales);
  }
  const auto elsewhere = std::stable_partition(
      sources.begin(), sources.end(), [](const Source& s) { return s.target->into.is_cpu(); });
  read_chunks({sources.begin(), elsewhere});
  read_staged({elsewhere, sources.end()});
}

}  // namespace

void load_tensors(const HfFolder& folder, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore) {
  load_places(folder.path(), folder.tensors(), targets, ignore, &folder);
}

void load_tensors(const SafetensorsFile& file, std::span<const LoadTarget> targets,
                  std::span<const std::string> ignore) {
  Places places;
  for (const TensorInfo& tensor : file.tensors()) places[tensor.name] = {&file, &tensor};
  load_places(file.path(), places, targets, ignore, nullptr);
}

}  // namespace conclave::checkpoint
