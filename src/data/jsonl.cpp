#include "data/jsonl.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/progress.h"

namespace conclave::data {
namespace {

using Json = nlohmann::json;

std::string converted(const Tokenizer& tokenizer, const Json& line, const std::string& at) {
  bool has_text = line.is_object() && line.contains("text");
  bool has_ids = line.is_object() && line.contains("ids");
  if (has_text == has_ids)
    throw RunError(at + ": expected {\"text\": …} or {\"ids\": […]}, got " +
                   (has_text ? "both" : "neither"));
  if (has_ids) {
    auto ids = get<std::vector<int64_t>>(line, "ids", at);
    return "{\"text\": " + Json(tokenizer.decode(std::span<const int64_t>(ids))).dump() + "}\n";
  }
  std::string out = "{\"ids\": [";
  for (int32_t id : tokenizer.encode(get<std::string>(line, "text", at))) {
    if (out.back() != '[') out += ", ";
    out += std::to_string(id);
  }
  return out + "]}\n";
}

}  // namespace

int64_t tokenize_jsonl(const Tokenizer& tokenizer, const std::string& in, const std::string& out) {
  MappedFile file(in);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  Progress progress("tokenizing", rest.size(), Progress::Unit::bytes);
  std::string result;
  int64_t number = 0;
  while (!rest.empty()) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    std::string at = in + ":" + std::to_string(++number);
    Json value = parse_json(line, at);
    try {
      result += converted(tokenizer, value, at);
    } catch (const RunError& error) {
      std::string what = error.what();
      throw RunError(what.starts_with(at) ? what : at + ": " + what);
    }
    size_t used = std::min(line.size() + 1, rest.size());
    rest.remove_prefix(used);
    progress.add(used);
  }
  write_file_atomic(out, result);
  progress.finish();
  return number;
}

}  // namespace conclave::data
