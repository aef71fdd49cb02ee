#include "checkpoint/dtype.h"

#include <c10/util/Exception.h>

#include <array>

namespace conclave::checkpoint {
namespace {

struct Row {
  std::string_view name;
  at::ScalarType dtype;
};

constexpr std::array kTable = {
    Row{"U64", at::kUInt64},
    Row{"I64", at::kLong},
    Row{"F64", at::kDouble},
    Row{"C64", at::kComplexFloat},
    Row{"F32", at::kFloat},
    Row{"U32", at::kUInt32},
    Row{"I32", at::kInt},
    Row{"BF16", at::kBFloat16},
    Row{"F16", at::kHalf},
    Row{"U16", at::kUInt16},
    Row{"I16", at::kShort},
    Row{"F8_E8M0", at::kFloat8_e8m0fnu},
    Row{"F8_E4M3", at::kFloat8_e4m3fn},
    Row{"F8_E5M2", at::kFloat8_e5m2},
    Row{"I8", at::kChar},
    Row{"U8", at::kByte},
    Row{"BOOL", at::kBool},
};

}  // namespace

std::optional<at::ScalarType> dtype_from_name(std::string_view name) {
  for (const Row& row : kTable)
    if (row.name == name) return row.dtype;
  return std::nullopt;
}

int dtype_rank(at::ScalarType dtype) {
  for (size_t i = 0; i < kTable.size(); ++i)
    if (kTable[i].dtype == dtype) return static_cast<int>(i);
  TORCH_CHECK(false, "safetensors: expected one of ", dtype_names(), ", got ", dtype);
}

std::string_view dtype_name(at::ScalarType dtype) {
  return kTable[static_cast<size_t>(dtype_rank(dtype))].name;
}

std::string dtype_names() {
  std::string all;
  for (const Row& row : kTable) all.append(all.empty() ? "" : ", ").append(row.name);
  return all;
}

}  // namespace conclave::checkpoint
