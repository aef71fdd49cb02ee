#include "checkpoint/header.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/dtype.h"

namespace conclave::checkpoint {
namespace {

using nlohmann::json;

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw RunError(path + ": not a whole safetensors file: " + what);
}

// A number that is a whole one, not negative and fits int64; anything else is damage.
int64_t whole_number(const json& value, const std::string& path, const std::string& what) {
  const bool fits = value.is_number_unsigned() &&
                    value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
  if (!fits)
    damaged(path, what + ": expected whole numbers from 0 to 2^63 - 1, got " +
                      value.dump(-1, ' ', true).substr(0, 40));
  return value.get<int64_t>();
}

// Bytes of a tensor, or −1 when its strides, in bytes, would not fit int64.
int64_t bytes_of(const std::vector<int64_t>& shape, at::ScalarType dtype) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  bool empty = false;
  for (int64_t dim : shape) {
    empty |= dim == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(dim, 1), &bytes)) return -1;
  }
  return empty ? 0 : bytes;
}

TensorInfo parse_tensor(const std::string& name, const json& entry, const std::string& path) {
  const std::string what = "tensor `" + name + "`";
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") ||
      !entry["dtype"].is_string() || !entry.contains("shape") || !entry["shape"].is_array() ||
      !entry.contains("data_offsets") || !entry["data_offsets"].is_array() ||
      entry["data_offsets"].size() != 2)
    damaged(path,
            what +
                ": expected {\"dtype\": text, \"shape\": [...], \"data_offsets\": [a, b]}, got " +
                entry.dump(-1, ' ', true).substr(0, 80));
  TensorInfo tensor;
  tensor.name = name;
  const auto dtype_text = entry["dtype"].get<std::string>();
  const auto dtype = dtype_from_name(dtype_text);
  if (!dtype)
    damaged(path,
            what + ": expected a type of " + dtype_names() + ", got " + dtype_text.substr(0, 40));
  tensor.dtype = *dtype;
  for (const json& dim : entry["shape"])
    tensor.shape.push_back(whole_number(dim, path, what + ": shape"));
  tensor.begin = whole_number(entry["data_offsets"][0], path, what + ": data_offsets");
  tensor.end = whole_number(entry["data_offsets"][1], path, what + ": data_offsets");
  const int64_t bytes = bytes_of(tensor.shape, tensor.dtype);
  if (bytes < 0) damaged(path, what + ": its shape has more than 2^63 - 1 bytes");
  if (tensor.end < tensor.begin || tensor.bytes() != bytes)
    damaged(path,
            format("%s: its shape and type have %lld bytes, its data_offsets are [%lld, %lld]",
                   what.c_str(), static_cast<long long>(bytes),
                   static_cast<long long>(tensor.begin), static_cast<long long>(tensor.end)));
  return tensor;
}

Metadata parse_metadata(const json& entry, const std::string& path) {
  Metadata metadata;
  if (!entry.is_object()) damaged(path, "__metadata__: expected an object of texts");
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) damaged(path, "__metadata__: `" + key + "` is not a text");
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// Orders the tensors by their bytes, checks that they fill `data` bytes exactly, and turns offsets
// into those of the file.
void check_cover(std::vector<TensorInfo>& tensors, int64_t start, int64_t data,
                 const std::string& path) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t at = 0;
  for (TensorInfo& tensor : tensors) {
    if (tensor.begin != at)
      damaged(path,
              format("tensor `%s` begins at byte %lld of the data, %s it should begin at %lld",
                     tensor.name.c_str(), static_cast<long long>(tensor.begin),
                     tensor.begin < at ? "inside another one;" : "after a hole;",
                     static_cast<long long>(at)));
    at = tensor.end;
    if (at > data)
      damaged(
          path,
          format("tensor `%s` ends at byte %lld of the data, the file has %lld; was it cut off?",
                 tensor.name.c_str(), static_cast<long long>(at), static_cast<long long>(data)));
    tensor.begin += start, tensor.end += start;
  }
  if (at != data)
    damaged(path, format("the tensors have %lld bytes, the file has %lld of data",
                         static_cast<long long>(at), static_cast<long long>(data)));
}

}  // namespace

Header parse_header(std::string_view file, const std::string& path) {
  uint64_t length = 0;
  if (file.size() < sizeof length)
    damaged(path, format("it has %zu bytes, the header's length alone takes 8", file.size()));
  std::memcpy(&length, file.data(), sizeof length);
  if (length > uint64_t{kMaxHeaderBytes})
    damaged(path, format("its header would have %llu bytes, at most 100000000 are allowed",
                         static_cast<unsigned long long>(length)));
  if (length > file.size() - sizeof length)
    damaged(path, format("its header has %llu bytes, the file only %zu",
                         static_cast<unsigned long long>(length), file.size()));
  const std::string_view text = file.substr(sizeof length, length);
  if (text.empty() || text.front() != '{') damaged(path, "its header does not begin with {");
  const json root = parse_json(text, path + ": header", {.bytes = kMaxHeaderBytes, .depth = 8});

  Header header;
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__")
      header.metadata = parse_metadata(entry, path);
    else
      header.tensors.push_back(parse_tensor(name, entry, path));
  }
  const auto start = static_cast<int64_t>(sizeof length + length);
  check_cover(header.tensors, start, static_cast<int64_t>(file.size()) - start, path);
  return header;
}

std::string make_header(std::span<const NamedTensor> tensors, const Metadata& metadata,
                        std::vector<const NamedTensor*>& order) {
  order.clear();
  std::set<std::string> names;
  for (const NamedTensor& tensor : tensors) {
    TORCH_CHECK(tensor.data.defined() && tensor.data.is_cpu(),
                "safetensors: expected a CPU tensor, got another one for `", tensor.name, "`");
    TORCH_CHECK(tensor.name != "__metadata__",
                "safetensors: no tensor can be called `__metadata__`");
    TORCH_CHECK(names.insert(tensor.name).second, "safetensors: two tensors `", tensor.name, "`");
    order.push_back(&tensor);
  }
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    const int rank_a = dtype_rank(a->data.scalar_type()),
              rank_b = dtype_rank(b->data.scalar_type());
    return std::tie(rank_a, a->name) < std::tie(rank_b, b->name);
  });

  std::string text = "{";
  const auto add = [&](const std::string& key, const std::string& value) {
    text.append(text.size() > 1 ? "," : "").append(json(key).dump()).append(":").append(value);
  };
  if (!metadata.empty()) add("__metadata__", json(metadata).dump());
  size_t at = 0;
  for (const NamedTensor* tensor : order) {
    std::string dims;
    for (int64_t dim : tensor->data.sizes())
      dims.append(dims.empty() ? "" : ",").append(std::to_string(dim));
    const size_t end = at + tensor->data.nbytes();
    add(tensor->name, "{\"dtype\":\"" + std::string(dtype_name(tensor->data.scalar_type())) +
                          "\",\"shape\":[" + dims + "],\"data_offsets\":[" + std::to_string(at) +
                          "," + std::to_string(end) + "]}");
    at = end;
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');
  TORCH_CHECK(text.size() <= size_t{kMaxHeaderBytes}, "safetensors: the header of ", tensors.size(),
              " tensors would have ", text.size(), " bytes, at most ", kMaxHeaderBytes,
              " are allowed");
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace conclave::checkpoint
