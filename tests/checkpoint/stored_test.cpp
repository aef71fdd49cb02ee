// The forms in which a checkpoint may hold a tensor: read whole and in parts, in every type, and
// what is said of damaged ones.
#include "checkpoint/stored.h"

#include <ATen/Parallel.h>

#include "checkpoint/convert.h"
#include "checkpoint/load.h"
#include "checkpoint/quantized.h"
#include "checkpoint/save.h"

namespace conclave::checkpoint {
namespace {

using Targets = std::vector<LoadTarget>;
using Tensors = std::vector<NamedTensor>;
using Shape = std::vector<int64_t>;

constexpr std::array kFloats = {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble};

at::Tensor converted(const at::Tensor& x, at::ScalarType to) {
  at::Tensor out = at::empty(x.sizes(), to);
  convert(x.const_data_ptr(), x.scalar_type(), out.data_ptr(), to, x.numel());
  return out;
}

// Loads `name` from `file` whole with 1, 2 and 4 threads and cut at every place of `cuts`; the
// bytes have to be those of `want`.
void expect_loads(const SafetensorsFile& file, const std::string& name, bool transposed,
                  const at::Tensor& want, std::vector<int64_t> cuts) {
  const Shape shape = want.sizes().vec();
  const int before = at::get_num_threads();
  for (int threads : {1, 2, 4}) {
    at::set_num_threads(threads);
    const at::Tensor got = at::empty(shape, want.scalar_type());
    load_tensors(file, Targets{{name, shape, got, 0, transposed}});
    expect_same_values(got, want);
  }
  at::set_num_threads(before);
  const at::Tensor flat = at::empty({want.numel()}, want.scalar_type());
  cuts.push_back(want.numel());
  Targets targets;
  for (int64_t begin = 0; int64_t end : cuts) {
    targets.push_back({name, shape, flat.slice(0, begin, end), begin, transposed});
    begin = end;
  }
  load_tensors(file, targets);
  expect_same_values(flat.view(shape), want);
}

TEST(Stored, Fp8InEveryTypeAndCut) {
  TempFolder dir;
  const at::Tensor codes = patterned({391, 515}, at::kFloat8_e4m3fn, 1), scales = scale_grid(4, 5);
  write_safetensors(dir / "f", Tensors{{"w", codes}, {"w_scale_inv", scales}});
  const SafetensorsFile file(dir / "f");
  for (at::ScalarType dtype : kFloats)
    expect_loads(file, "w", false, converted(fp8_reference(codes, scales), dtype),
                 {1, 514, 515, 1000, 128 * 515 - 1, 200'000});
  // A target of the codes' own type gets the codes.
  const at::Tensor raw = at::empty({391, 515}, at::kFloat8_e4m3fn),
                   grid = at::empty({4, 5}, at::kFloat);
  load_tensors(file, Targets{{"w", {391, 515}, raw}, {"w_scale_inv", {4, 5}, grid}});
  expect_same(raw, codes);
}

TEST(Stored, Mxfp4InEveryTypeAndCut) {
  TempFolder dir;
  const at::Tensor blocks = patterned({3, 41, 5, 16}, at::kByte, 2);
  for (at::ScalarType scale_type : {at::kByte, at::kFloat8_e8m0fnu}) {
    const at::Tensor scales = patterned({3, 41, 5}, scale_type, 3);
    write_safetensors(dir / "f", Tensors{{"w_blocks", blocks}, {"w_scales", scales}});
    const SafetensorsFile file(dir / "f");
    const at::Tensor want = mxfp4_reference(blocks, scales, {3, 41, 160});
    for (at::ScalarType dtype : kFloats)
      for (bool transposed : {false, true})  // the bf16 form's order does not matter here
        expect_loads(file, "w", transposed, converted(want, dtype), {1, 2, 31, 33, 96, 6560, 6561});
  }
}

TEST(Stored, TransposedInEveryTypeAndCut) {
  TempFolder dir;
  for (auto [e, rows, cols] :
       {std::tuple<int64_t, int64_t, int64_t>{1, 3, 7}, {3, 70, 90}, {2, 5000, 75}})
    for (at::ScalarType from : kFloats) {
      const at::Tensor x = patterned({e, cols, rows}, from, 4);
      write_safetensors(dir / "f", Tensors{{"w", x}});
      const SafetensorsFile file(dir / "f");
      const at::Tensor turned = x.transpose(1, 2).contiguous();
      const int64_t n = turned.numel();
      for (at::ScalarType to : {from, at::kBFloat16, at::kDouble})
        expect_loads(file, "w", true, converted(turned, to),
                     {n / 9, n / 7, n / 7 + 1, n / 7 + 2, n / 3, n / 2, n / 2 + cols, n - 1});
    }
  const at::Tensor m = patterned({6, 4}, at::kFloat, 1);
  write_safetensors(dir / "f", Tensors{{"m", m}});
  expect_loads(SafetensorsFile(dir / "f"), "m", true, m.t().contiguous(), {5});
}

TEST(Stored, ATransposedViewIsWrittenInItsOrder) {
  TempFolder dir;
  const at::Tensor x = patterned({2, 3, 5, 7}, at::kBFloat16, 4);
  const at::Tensor view = x.transpose(-1, -2);
  write_safetensors(dir / "view", Tensors{{"w", view}, {"v", x}});
  write_safetensors(dir / "copy", Tensors{{"w", view.contiguous()}, {"v", x}});
  EXPECT_TRUE(read_file(dir / "view") == read_file(dir / "copy"));
}

TEST(Stored, DamagedOnesNameTheTensor) {
  TempFolder dir;
  const at::Tensor codes = patterned({200, 300}, at::kFloat8_e4m3fn, 1), scales = scale_grid(2, 3);
  const at::Tensor blocks = patterned({2, 6, 3, 16}, at::kByte, 1),
                   exponents = patterned({2, 6, 3}, at::kByte, 1);
  const at::Tensor fp8 = at::empty({200, 300}, at::kBFloat16),
                   fp4 = at::empty({2, 6, 96}, at::kBFloat16);
  const auto error = [&](const Tensors& tensors, const LoadTarget& target) {
    write_safetensors(dir / "f", tensors);
    return message_of([&] { load_tensors(SafetensorsFile(dir / "f"), Targets{target}); });
  };
  const LoadTarget w8{"w", {200, 300}, fp8}, w4{"w", {2, 6, 96}, fp4, 0, true};
  // FP8
  EXPECT_CONTAINS(error({{"w", codes}}, w8),
                  "`w_scale_inv` is missing (expected F32 [2, 3], one a block of 128 x 128");
  EXPECT_CONTAINS(
      error({{"w", codes}, {"w_scale_inv", scale_grid(2, 2)}}, w8),
      "`w_scale_inv`: expected F32 [2, 3], one a block of 128 x 128 of the F8_E4M3 `w`, "
      "found F32 [2, 2]");
  EXPECT_CONTAINS(error({{"w", codes}, {"w_scale_inv", scales.view({6})}}, w8), "found F32 [6]");
  EXPECT_CONTAINS(error({{"w", codes}, {"w_scale_inv", patterned({2, 3}, at::kBFloat16, 1)}}, w8),
                  "found BF16 [2, 3]");
  EXPECT_CONTAINS(error({{"w", codes.slice(0, 0, 100).contiguous()}, {"w_scale_inv", scales}}, w8),
                  "`w`: expected [200, 300], found [100, 300]");
  EXPECT_CONTAINS(
      error({{"w", patterned({200, 300}, at::kFloat8_e5m2, 1)}, {"w_scale_inv", scales}}, w8),
      "`w`: expected BF16 or what converts to it, found F8_E5M2");
  EXPECT_CONTAINS(
      error({{"w", patterned({200, 300}, at::kBFloat16, 1)}, {"w_scale_inv", scales}}, w8),
      "`w_scale_inv` [2, 3] is not part of the model");
  EXPECT_CONTAINS(error({{"w", patterned({2, 2, 3}, at::kFloat8_e4m3fn, 1)}},
                        {"w", {2, 2, 3}, at::empty({2, 2, 3}, at::kFloat)}),
                  "`w`: F8_E4M3 is read for matrices");
  // MXFP4
  EXPECT_CONTAINS(error({{"w_blocks", blocks}}, w4),
                  "`w_scales` is missing (expected U8 or F8_E8M0 [2, 6, 3], MXFP4 of [2, 6, 96])");
  EXPECT_CONTAINS(error({{"w_scales", exponents}}, w4),
                  "`w_blocks` is missing (expected U8 [2, 6, 3, 16], MXFP4 of [2, 6, 96])");
  EXPECT_CONTAINS(
      error({{"w_blocks", blocks.slice(2, 0, 2).contiguous()}, {"w_scales", exponents}}, w4),
      "`w_blocks`: expected U8 [2, 6, 3, 16], MXFP4 of [2, 6, 96], found U8 [2, 6, 2, 16]");
  EXPECT_CONTAINS(error({{"w_blocks", blocks}, {"w_scales", exponents.view({6, 2, 3})}}, w4),
                  "`w_scales`: expected U8 or F8_E8M0 [2, 6, 3]");
  EXPECT_CONTAINS(
      error({{"w_blocks", patterned({2, 6, 3, 16}, at::kChar, 1)}, {"w_scales", exponents}}, w4),
      "found I8 [2, 6, 3, 16]");
  EXPECT_CONTAINS(
      error({{"w_blocks", blocks}, {"w_scales", patterned({2, 6, 3}, at::kFloat, 1)}}, w4),
      "found F32 [2, 6, 3]");
  EXPECT_CONTAINS(error({{"w_blocks", blocks}, {"w_scales", exponents}},
                        {"w", {2, 6, 90}, at::empty({2, 6, 90}, at::kFloat)}),
                  "expected a floating-point tensor with a multiple of 32 columns");
  EXPECT_CONTAINS(error({{"w_blocks", blocks}, {"w_scales", exponents}},
                        {"w", {2, 6, 96}, at::empty({2, 6, 96}, at::kLong)}),
                  "`w_blocks`: MXFP4 of [2, 6, 96]: expected a floating-point tensor");
  // Transposed: the message has the file's shape.
  EXPECT_CONTAINS(error({{"w", patterned({2, 6, 96}, at::kFloat, 1)}}, w4),
                  "`w`: expected [2, 96, 6], found [2, 6, 96]");
}

TEST(Stored, OtherBlockSizesAreRefused) {
  TempFolder dir;
  FolderContents contents{.config_json =
                              R"({"quantization_config": {"weight_block_size": [64, 64]}})"};
  contents.tensors = {{"w", patterned({50, 60}, at::kFloat8_e4m3fn, 1)},
                      {"w_scale_inv", scale_grid(1, 1)}};
  const at::Tensor w = at::empty({50, 60}, at::kFloat);
  const auto load = [&] {
    save_folder(dir / "m", contents);
    load_tensors(HfFolder(dir / "m"), Targets{{"w", {50, 60}, w}});
  };
  EXPECT_CONTAINS(message_of(load),
                  "config.json: `quantization_config.weight_block_size`: expected [128, 128], got "
                  "[64,64]");
  for (const char* fine : {R"({"quantization_config": {"weight_block_size": [128, 128]}})",
                           R"({"quantization_config": {}})", "{}"}) {
    contents.config_json = fine;
    load();
    expect_same_values(w, fp8_reference(contents.tensors[0].data, contents.tensors[1].data));
  }
}

// transformers' own dequantisers on the same bytes. The script states where they leave the
// specification.
TEST(StoredParity, TransformersComputesTheSame) {
  const char* set = std::getenv("CONCLAVE_PYTHON");
  const std::string python = set ? set : ".venv/bin/python";
  TempFolder dir;
  // Every code in a row of each scale: blocks of 128 columns, one row of 128 a scale exponent.
  constexpr int64_t kScales = 255;
  at::Tensor codes = at::empty({kScales * 128, 256}, at::kFloat8_e4m3fn),
             scales = at::empty({kScales, 2}, at::kFloat);
  auto* code = static_cast<uint8_t*>(codes.data_ptr());
  for (int64_t i = 0; i < codes.numel(); ++i) code[i] = static_cast<uint8_t>(i + i / 256);
  for (int64_t i = 0; i < kScales; ++i) {
    const auto exponent = static_cast<uint32_t>(i) << 23;
    scales.data_ptr<float>()[2 * i] = std::bit_cast<float>(exponent);
    scales.data_ptr<float>()[2 * i + 1] = std::bit_cast<float>(exponent | 0x2aaaab);
  }
  at::Tensor blocks = at::empty({1, 256, 8, 16}, at::kByte),
             exponents = at::empty({1, 256, 8}, at::kByte);
  for (int64_t i = 0; i < blocks.numel(); ++i)
    blocks.data_ptr<uint8_t>()[i] = static_cast<uint8_t>(i + i / 256);
  for (int64_t i = 0; i < exponents.numel(); ++i)
    exponents.data_ptr<uint8_t>()[i] = static_cast<uint8_t>(i / 8);
  Tensors out = {
      {"fp8", codes}, {"fp8_scale_inv", scales}, {"fp4_blocks", blocks}, {"fp4_scales", exponents}};
  write_safetensors(dir / "quantized", out);
  for (at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const at::Tensor fp8 = at::empty(codes.sizes(), dtype), fp4 = at::empty({1, 256, 256}, dtype);
    load_tensors(SafetensorsFile(dir / "quantized"),
                 Targets{{"fp8", codes.sizes().vec(), fp8}, {"fp4", {1, 256, 256}, fp4}});
    out.push_back({"fp8." + std::string(c10::toString(dtype)), fp8});
    out.push_back({"fp4." + std::string(c10::toString(dtype)), fp4});
  }
  write_safetensors(dir / "ours.safetensors", out);
  const std::string command = python + " tests/parity/dequantize_parity.py " + dir.path().string();
  const int status = WEXITSTATUS(std::system(command.c_str()));
  if (status == 77 || !path_exists("tests/parity") || status == 127)
    GTEST_SKIP() << "needs " << python << " with transformers, run from the project's root";
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace conclave::checkpoint
