#include "checkpoint/load.h"

#include <ATen/Parallel.h>

#include "checkpoint/convert.h"
#include "checkpoint/save.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

using Targets = std::vector<LoadTarget>;
using Names = std::vector<std::string>;

at::Tensor zeros_like(const at::Tensor& x, at::ScalarType dtype) {
  at::Tensor out = at::empty(x.sizes(), dtype);
  std::memset(out.data_ptr(), 0x5a, out.nbytes());  // what is not written is seen
  return out;
}

TEST(Load, SameTypesAreCopiedAcrossShardsAndThreads) {
  TempFolder dir;
  FolderContents contents{.config_json = "{}", .max_shard_bytes = 5'000'000};
  contents.tensors = {
      {"big", patterned({3, 1'000'001}, at::kFloat, 1)},  // more than one chunk, and an odd end
      {"half", patterned({1000, 777}, at::kHalf, 2)},    {"scalar", patterned({}, at::kDouble, 3)},
      {"empty", patterned({0, 4}, at::kFloat, 4)},       {"ids", patterned({9}, at::kLong, 5)},
      {"scale", patterned({3}, at::kFloat8_e4m3fn, 6)}};
  save_folder(dir / "m", contents);
  const HfFolder folder(dir / "m");
  EXPECT_EQ(folder.files().size(), 2u);
  const int before = at::get_num_threads();
  for (int threads : {1, 2, 4}) {
    at::set_num_threads(threads);
    Targets targets;
    for (const NamedTensor& t : contents.tensors)
      targets.push_back({t.name, t.data.sizes().vec(), zeros_like(t.data, t.data.scalar_type())});
    load_tensors(folder, targets);
    for (size_t i = 0; i < targets.size(); ++i)
      expect_same(targets[i].into, contents.tensors[i].data);
  }
  at::set_num_threads(before);
}

TEST(Load, ConvertsBetweenFloats) {
  TempFolder dir;
  for (at::ScalarType from : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    const at::Tensor x = patterned({513, 1025}, from, 7);
    write_safetensors(dir / "f",
                      std::vector<NamedTensor>{{"x", x}, {"odd", patterned({3}, at::kByte, 0)}});
    for (at::ScalarType to : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
      const at::Tensor got = zeros_like(x, to), want = zeros_like(x, to);
      convert(x.const_data_ptr(), from, want.data_ptr(), to, x.numel());
      load_tensors(SafetensorsFile(dir / "f"), Targets{{"x", {513, 1025}, got}}, Names{"odd"});
      expect_same(got, want);
    }
  }
}

TEST(Load, APartOfATensor) {
  TempFolder dir;
  const at::Tensor x = patterned({6, 5}, at::kBFloat16, 1);
  write_safetensors(dir / "f", std::vector<NamedTensor>{{"x", x}});
  const SafetensorsFile file(dir / "f");
  const at::Tensor flat = at::empty({30}, at::kBFloat16);
  load_tensors(file, Targets{{"x", {6, 5}, flat.slice(0, 7, 20), 7},
                             {"x", {6, 5}, flat.slice(0, 0, 7)},
                             {"x", {6, 5}, flat.slice(0, 20, 30), 20}});
  EXPECT_EQ(bytes_of(flat), bytes_of(x));
  EXPECT_THROW(load_tensors(file, Targets{{"x", {6, 5}, flat, 1}}), c10::Error);
  EXPECT_THROW(load_tensors(file, Targets{{"x", {6, 5}, flat, -1}}), c10::Error);
  EXPECT_THROW(load_tensors(file, Targets{{"x", {6, 5}, at::empty({5, 6}, at::kFloat).t()}}),
               c10::Error);
}

TEST(Load, NamesWhatDoesNotFit) {
  TempFolder dir;
  write_safetensors(dir / "f",
                    std::vector<NamedTensor>{{"a", patterned({2, 3}, at::kFloat, 1)},
                                             {"b", patterned({2}, at::kLong, 1)},
                                             {"x.inv_freq", patterned({2}, at::kFloat, 1)},
                                             {"x.inv_freq.y", patterned({2}, at::kFloat, 1)}});
  const SafetensorsFile file(dir / "f");
  const at::Tensor a = at::empty({2, 3}, at::kFloat), b = at::empty({2}, at::kLong);
  const auto error = [&](const Targets& targets, const Names& ignore) {
    return message_of([&] { load_tensors(file, targets, ignore); });
  };
  const Names both = {"*.inv_freq", "x.*.y"};
  load_tensors(file, Targets{{"a", {2, 3}, a}, {"b", {2}, b}}, both);
  load_tensors(file, Targets{{"a", {2, 3}, a}}, Names{"*"});
  expect_same(a, patterned({2, 3}, at::kFloat, 1));

  EXPECT_CONTAINS(error({{"a", {2, 3}, a}, {"b", {2}, b}}, {"*.inv_freq"}),
                  "`x.inv_freq.y` [2] is not part of the model");
  EXPECT_CONTAINS(error({{"a", {2, 3}, a}, {"b", {2}, b}, {"c", {7}, b}}, both),
                  "`c` is missing (expected [7])");
  EXPECT_CONTAINS(error({{"a", {3, 2}, a}, {"b", {2}, b}}, both),
                  "`a`: expected [3, 2], found [2, 3]");
  EXPECT_CONTAINS(error({{"a", {2, 3}, a}, {"b", {2}, at::empty({2}, at::kFloat)}}, both),
                  "`b`: expected F32 or what converts to it, found I64");
  Targets many;
  for (int i = 0; i < 20; ++i) many.push_back({"w" + std::to_string(i), {2}, b});
  const std::string message = error(many, {"*"});
  EXPECT_CONTAINS(message, "`w4` is missing");
  EXPECT_CONTAINS(message, "and 15 more");
  EXPECT_FALSE(contains(message, "`w5`"));
  EXPECT_EQ(message.rfind((dir / "f").string(), 0), 0u);
}

TEST(Load, NothingIsWrittenWhenNamesAreWrong) {
  TempFolder dir;
  write_safetensors(dir / "f", std::vector<NamedTensor>{{"a", patterned({2}, at::kFloat, 1)}});
  const at::Tensor a = zeros_like(at::empty({2}, at::kFloat), at::kFloat);
  const std::string before = bytes_of(a);
  EXPECT_THROW(load_tensors(SafetensorsFile(dir / "f"), Targets{{"a", {2}, a}, {"b", {2}, a}}),
               RunError);
  EXPECT_EQ(bytes_of(a), before);
}

TEST(Load, AFileCutWhileItIsOpenIsAnError) {
  TempFolder dir;
  write_safetensors(dir / "f",
                    std::vector<NamedTensor>{{"a", patterned({100'000}, at::kFloat, 1)}});
  const SafetensorsFile file(dir / "f");
  std::filesystem::resize_file(dir / "f", 4096);
  const at::Tensor a = at::empty({100'000}, at::kFloat);
  EXPECT_CONTAINS(message_of([&] {
                    load_tensors(file, Targets{{"a", {100'000}, a}});
                  }),
                  "ended while it was read");
}

}  // namespace
}  // namespace conclave::checkpoint
