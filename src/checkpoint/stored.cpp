#include "checkpoint/stored.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/convert.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/dtype.h"
#include "checkpoint/load.h"

namespace conclave::checkpoint {
namespace {

using Shape = std::vector<int64_t>;

bool is_float(at::ScalarType dtype) { return can_convert(dtype, at::kFloat); }

// Finds `name`, which is one part of a quantized tensor, and says what is wrong with it.
HfFolder::Place find_part(const Places& places, const std::string& name, const Shape& shape,
                          const std::vector<at::ScalarType>& dtypes, const std::string& because,
                          std::string& complaint) {
  std::vector<std::string> types;
  for (at::ScalarType dtype : dtypes) types.emplace_back(dtype_name(dtype));
  const std::string expected =
      "expected " + join(types, " or ") + " " + shape_text(shape) + ", " + because;
  const auto found = places.find(name);
  if (found == places.end()) {
    complaint = "`" + name + "` is missing (" + expected + ")";
    return {};
  }
  const TensorInfo& tensor = *found->second.tensor;
  if (tensor.shape != shape ||
      std::find(dtypes.begin(), dtypes.end(), tensor.dtype) == dtypes.end())
    complaint = "`" + name + "`: " + expected + ", found " + std::string(dtype_name(tensor.dtype)) +
                " " + shape_text(tensor.shape);
  return found->second;
}

Stored find_mxfp4(const LoadTarget& target, const Places& places) {
  Stored stored{.form = Form::mxfp4};
  const std::string because = "MXFP4 of " + shape_text(target.shape);
  if (target.shape.empty() || target.shape.back() % kMxfp4Block ||
      !is_float(target.into.scalar_type())) {
    stored.complaint = "`" + target.name + "_blocks`: " + because +
                       ": expected a floating-point tensor with a multiple of " +
                       std::to_string(kMxfp4Block) + " columns";
    return stored;
  }
  Shape scales = target.shape;
  scales.back() /= kMxfp4Block;
  Shape blocks = scales;
  blocks.push_back(kMxfp4Block / 2);
  stored.values =
      find_part(places, target.name + "_blocks", blocks, {at::kByte}, because, stored.complaint);
  if (stored.complaint.empty())
    stored.scales = find_part(places, target.name + "_scales", scales,
                              {at::kByte, at::kFloat8_e8m0fnu}, because, stored.complaint);
  return stored;
}

Stored find_fp8(const LoadTarget& target, const Places& places, const HfFolder::Place& values) {
  Stored stored{.form = Form::fp8, .values = values};
  if (target.shape.size() != 2 || target.transposed) {
    stored.complaint = "`" + target.name + "`: F8_E4M3 is read for matrices that are not " +
                       "transposed, found it for " + shape_text(target.shape);
    return stored;
  }
  Shape scales;
  for (int64_t dim : target.shape) scales.push_back((dim + kFp8Block - 1) / kFp8Block);
  stored.scales =
      find_part(places, target.name + "_scale_inv", scales, {at::kFloat},
                "one a block of 128 x 128 of the F8_E4M3 `" + target.name + "`", stored.complaint);
  return stored;
}

}  // namespace

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> dims;
  for (int64_t dim : shape) dims.push_back(std::to_string(dim));
  return "[" + join(dims, ", ") + "]";
}

Stored find_stored(const LoadTarget& target, const Places& places) {
  const auto found = places.find(target.name);
  if (found == places.end()) {
    if (places.contains(target.name + "_blocks") || places.contains(target.name + "_scales"))
      return find_mxfp4(target, places);
    return {.complaint =
                "`" + target.name + "` is missing (expected " + shape_text(target.shape) + ")"};
  }
  Stored stored{.form = target.transposed ? Form::transposed : Form::plain,
                .values = found->second};
  const TensorInfo& tensor = *found->second.tensor;
  Shape shape = target.shape;
  if (target.transposed) std::swap(shape.end()[-1], shape.end()[-2]);
  const at::ScalarType wanted = target.into.scalar_type();
  if (tensor.dtype == at::kFloat8_e4m3fn && is_float(wanted) && tensor.shape == shape)
    return find_fp8(target, places, found->second);
  if (tensor.shape != shape)
    stored.complaint = "`" + target.name + "`: expected " + shape_text(shape) + ", found " +
                       shape_text(tensor.shape);
  else if (!can_convert(tensor.dtype, wanted))
    stored.complaint = "`" + target.name + "`: expected " + std::string(dtype_name(wanted)) +
                       " or what converts to it, found " + std::string(dtype_name(tensor.dtype));
  return stored;
}

std::vector<std::string> names_of(const std::string& name, Form form) {
  if (form == Form::mxfp4) return {name + "_blocks", name + "_scales"};
  if (form == Form::fp8) return {name, name + "_scale_inv"};
  return {name};
}

void check_fp8_config(const HfFolder& folder) {
  const std::string file = folder.path() / "config.json";
  const nlohmann::json config = parse_json(folder.config_json(), file);
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || !quantization->is_object()) return;
  const auto size = quantization->find("weight_block_size");
  if (size != quantization->end() && !size->is_null() && *size != nlohmann::json{128, 128})
    throw RunError(file + ": `quantization_config.weight_block_size`: expected [128, 128], got " +
                   size->dump().substr(0, 40));
}

}  // namespace conclave::checkpoint
