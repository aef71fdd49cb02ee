// How long loading a model folder takes beside a plain read of its files (bar: at most 1.2 ×). Both
// into fresh buffers, with the same number of threads, from a warm page cache; alternated, minimum
// of 5. Loading includes opening and checking the headers. Then each form of weights that is made
// bf16 on the way, in GB/s of bf16.
//   load_bench [FOLDER TO WRITE IN] [BYTES] [THREADS]
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/files.h"
#include "checkpoint/load.h"
#include "checkpoint/save.h"

namespace {

using namespace conclave;
using namespace conclave::checkpoint;

double seconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// bf16 tensors as a mixture-of-experts model has them: an embedding, then norms and many expert
// matrices.
FolderContents model_of(int64_t bytes) {
  FolderContents contents{.config_json = "{}", .max_shard_bytes = bytes / 4 + 1};
  int64_t left = bytes / 2;  // elements
  const auto add = [&](std::vector<int64_t> shape) {
    at::Tensor tensor = at::empty(shape, at::kBFloat16);
    auto* data = static_cast<uint16_t*>(tensor.data_ptr());
    for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<uint16_t>(0x3c00 + i % 509);
    contents.tensors.push_back({"t" + std::to_string(contents.tensors.size()), tensor});
    left -= tensor.numel();
  };
  add({left / 10 / 1024, 1024});
  while (left > 0) {
    add({1024});
    for (int i = 0; i < 8 && left > 0; ++i) add({384, 1024});
  }
  return contents;
}

// Each file into a buffer of its own, a contiguous part of it a thread.
std::vector<at::Tensor> plain_read(const std::filesystem::path& folder, int threads) {
  std::vector<at::Tensor> buffers;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string path = entry.path();
    const auto size = static_cast<int64_t>(entry.file_size());
    buffers.push_back(at::empty({size}, at::kByte));
    auto* data = static_cast<char*>(buffers.back().data_ptr());
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) throw_errno(path, "open");
    std::vector<std::thread> readers;
    for (int t = 0; t < threads; ++t)
      readers.emplace_back([=] {
        const int64_t end = size * (t + 1) / threads;
        for (int64_t at = size * t / threads; at < end;) {
          const ssize_t got = pread(fd, data + at, static_cast<size_t>(end - at), at);
          if (got <= 0) throw_errno(path, "read");
          at += got;
        }
      });
    for (std::thread& reader : readers) reader.join();
    close(fd);
  }
  return buffers;
}

// All tensors in one flat buffer of `dtype`, as a unit of weights has them.
at::Tensor load(const std::filesystem::path& path, at::ScalarType dtype) {
  const HfFolder folder(path);
  int64_t numel = 0;
  for (const auto& [name, place] : folder.tensors()) numel += place.tensor->bytes() / 2;
  at::Tensor flat = at::empty({numel}, dtype);
  std::vector<LoadTarget> targets;
  int64_t begin = 0;
  for (const auto& [name, place] : folder.tensors()) {
    const int64_t end = begin + place.tensor->bytes() / 2;
    targets.push_back({name, place.tensor->shape, flat.slice(0, begin, end)});
    begin = end;
  }
  load_tensors(folder, targets);
  return flat;
}

// Seconds, at least of 5, of loading `target` in bf16 from a file of `tensors`.
double seconds_of(const std::filesystem::path& path, const std::vector<NamedTensor>& tensors,
                  LoadTarget target) {
  write_safetensors(path, tensors);
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < 5; ++i) {
    target.into = at::Tensor();
    least = std::min(least, seconds([&] {
                       target.into = at::empty(target.shape, at::kBFloat16);
                       load_tensors(SafetensorsFile(path), std::vector{target});
                     }));
  }
  std::filesystem::remove(path);
  return least;
}

void print_forms(const std::filesystem::path& path, int64_t bytes) {
  constexpr int64_t kCols = 2880, kRows = 5760;
  const int64_t experts = std::max<int64_t>(1, bytes / 2 / kRows / kCols), rows = experts * kRows;
  const auto made = [](std::vector<int64_t> shape, at::ScalarType dtype, int byte) {
    at::Tensor tensor = at::empty(shape, dtype);
    std::memset(tensor.data_ptr(), byte, tensor.nbytes());
    return tensor;
  };
  const std::vector<int64_t> shape = {experts, kRows, kCols};
  const double gb = static_cast<double>(2 * rows * kCols) / 1e9;
  const auto print = [&](const char* form, double s) {
    std::printf("  load, %-10s to bf16  %.3f s  %5.2f GB/s\n", form, s, gb / s);
  };
  print("transposed", seconds_of(path, {{"w", made({experts, kCols, kRows}, at::kBFloat16, 0x3c)}},
                                 {"w", shape, {}, 0, true}));
  print("fp8", seconds_of(path,
                          {{"w", made({rows, kCols}, at::kFloat8_e4m3fn, 0x3c)},
                           {"w_scale_inv",
                            made({(rows + 127) / 128, (kCols + 127) / 128}, at::kFloat, 0x3c)}},
                          {"w", {rows, kCols}, {}}));
  print("mxfp4", seconds_of(path,
                            {{"w_blocks", made({experts, kRows, kCols / 32, 16}, at::kByte, 0x35)},
                             {"w_scales", made({experts, kRows, kCols / 32}, at::kByte, 0x78)}},
                            {"w", shape, {}}));
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path parent =
      argc > 1 ? argv[1] : std::filesystem::temp_directory_path().string();
  const int64_t bytes = argc > 2 ? std::stoll(argv[2]) : 1'000'000'000;
  if (argc > 3) at::set_num_threads(std::stoi(argv[3]));
  const int threads = at::get_num_threads();
  const std::filesystem::path folder = parent / ("load_bench-" + std::to_string(getpid()));
  save_folder(folder, model_of(bytes));

  constexpr double kNever = std::numeric_limits<double>::infinity();
  double plain = kNever, same = kNever, wider = kNever;
  plain_read(folder, threads);  // warms the page cache
  for (int i = 0; i < 5; ++i) {
    std::vector<at::Tensor> buffers;  // freed outside of the time that is taken
    at::Tensor flat;
    plain = std::min(plain, seconds([&] { buffers = plain_read(folder, threads); }));
    buffers.clear();
    same = std::min(same, seconds([&] { flat = load(folder, at::kBFloat16); }));
    flat = at::Tensor();
    wider = std::min(wider, seconds([&] { flat = load(folder, at::kFloat); }));
  }
  remove_folder(folder);
  const double gb = static_cast<double>(bytes) / 1e9;
  std::printf("%.2f GB, %d threads, minimum of 5\n", gb, threads);
  std::printf("  plain read                %.3f s  %5.2f GB/s\n", plain, gb / plain);
  std::printf("  load, bf16 into bf16      %.3f s  %5.2f GB/s  %.2f x (bar: 1.20)\n", same,
              gb / same, same / plain);
  std::printf("  load, bf16 into fp32      %.3f s  %5.2f GB/s  %.2f x (writes twice the bytes)\n",
              wider, gb / wider, wider / plain);
}
