// What loading holds beside its targets, for every form. tests/bars/4_memory.sh measures a whole
// program on a folder of 3 B parameters.
#include <malloc.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "checkpoint/load.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

int64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;)
    if (word == "RssAnon:") {
      int64_t kilobytes = 0;
      status >> kilobytes;
      return kilobytes * 1024;
    }
  return -1;
}

// Growth of the largest anonymous memory while f runs, looked at a thousand times a second.
int64_t growth_during(const std::function<void()>& f) {
  malloc_trim(0);
  const int64_t before = anonymous_bytes();
  std::atomic<bool> done = false;
  int64_t peak = before;
  std::thread watcher([&] {
    for (; !done; std::this_thread::sleep_for(std::chrono::milliseconds(1)))
      peak = std::max(peak, anonymous_bytes());
  });
  f();
  done = true;
  watcher.join();
  return std::max(peak, anonymous_bytes()) - before;
}

TEST(LoadMemory, IsTheTargetsAndAFewMegabytes) {
  if (anonymous_bytes() < 0) GTEST_SKIP() << "needs RssAnon in /proc/self/status";
  constexpr int64_t kRows = 6144, kCols = 4096;
  constexpr int64_t kTarget = 2 * 2 * kRows * kCols, kMore = 16 << 20;  // 100 MB in bf16
  const std::vector<int64_t> shape = {2, kRows, kCols}, flat = {2 * kRows, kCols};
  const std::map<std::string, std::pair<std::vector<NamedTensor>, LoadTarget>> forms = {
      {"fp32", {{{"w", patterned(shape, at::kFloat, 1)}}, {"w", shape, {}}}},
      {"transposed",
       {{{"w", patterned({2, kCols, kRows}, at::kBFloat16, 1)}}, {"w", shape, {}, 0, true}}},
      {"fp8",
       {{{"w", patterned(flat, at::kFloat8_e4m3fn, 1)},
         {"w_scale_inv", patterned({2 * kRows / 128, kCols / 128}, at::kFloat, 1)}},
        {"w", flat, {}}}},
      {"mxfp4",
       {{{"w_blocks", patterned({2, kRows, kCols / 32, 16}, at::kByte, 1)},
         {"w_scales", patterned({2, kRows, kCols / 32}, at::kByte, 1)}},
        {"w", shape, {}}}}};
  TempFolder dir;
  for (const auto& [form, content] : forms) write_safetensors(dir / form, content.first);
  for (const auto& [form, content] : forms) {
    const SafetensorsFile file(dir / form);
    LoadTarget target = content.second;
    const int64_t growth = growth_during([&] {
      target.into = at::empty(target.shape, at::kBFloat16);
      load_tensors(file, std::vector{target});
    });
    EXPECT_GT(growth, kTarget - kMore) << form;  // the measure sees the targets
    EXPECT_LT(growth, kTarget + kMore) << form;
  }
}

}  // namespace
}  // namespace conclave::checkpoint
