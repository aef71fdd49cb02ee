#include "base/json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace conclave {
namespace {

using Json = nlohmann::json;

// Builds the value from the parser's events, so that depth and names are judged before anything is
// kept.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& file, int64_t depth)
      : text_(text), file_(file), depth_(depth) {}
  Json take() { return std::move(root_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override { return put(value); }
  bool number_float(double value, const std::string&) override { return put(value); }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }  // not in text
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    auto [slot, fresh] = open_.back()->get_ref<Json::object_t&>().emplace(name, nullptr);
    if (!fresh)
      throw RunError(file_ + ": the name " +
                     Json(name).dump(-1, ' ', true, Json::error_handler_t::replace) +
                     " stands twice in one object");
    slot_ = &slot->second;
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view before = text_.substr(0, position == 0 ? 0 : position - 1);
    size_t line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
    size_t start = before.rfind('\n');
    size_t column = 1 + before.size() - (start == before.npos ? 0 : start + 1);
    std::string what =
        error.what();  // "[json.exception…] parse error at line 1, column 2: syntax error …"
    if (size_t at = what.find("column "); at != what.npos)
      if (size_t colon = what.find(": ", at); colon != what.npos) what = what.substr(colon + 2);
    for (char& c : what)
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    throw RunError(format("%s:%zu:%zu: not JSON: %s", file_.c_str(), line, column, what.c_str()));
  }

 private:
  Json* place(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    if (open_.back()->is_array())
      return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    return &(*slot_ = std::move(value));
  }
  bool put(Json value) { return place(std::move(value)) != nullptr; }
  bool open(Json value) {
    if (static_cast<int64_t>(open_.size()) >= depth_)
      throw RunError(file_ + format(": nested deeper than %lld", static_cast<long long>(depth_)));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& file_;
  int64_t depth_;
  Json root_;
  std::vector<Json*> open_;  // stable: a parent does not grow while its last child is open
  Json* slot_ = nullptr;     // where the value of the last key goes
};

void refuse_larger(uint64_t bytes, const std::string& file, JsonLimits limits) {
  if (bytes > limits.bytes)
    throw RunError(file + ": expected at most " + std::to_string(limits.bytes) +
                   " bytes of JSON, got " + std::to_string(bytes));
}

std::string shown(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return format("a list of %zu", value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 60) + "…" : text;
}

const char* wanted(const bool*) { return "true or false"; }
const char* wanted(const int64_t*) { return "a whole number"; }
const char* wanted(const double*) { return "a number"; }
const char* wanted(const std::string*) { return "text"; }
const char* wanted(const std::vector<int64_t>*) { return "a list of whole numbers"; }
const char* wanted(const std::vector<double>*) { return "a list of numbers"; }
const char* wanted(const std::vector<std::string>*) { return "a list of text"; }

bool convert(const Json& value, bool& out) {
  if (value.is_boolean()) out = value.get<bool>();
  return value.is_boolean();
}
bool convert(const Json& value, int64_t& out) {
  bool fits = value.is_number_integer() &&
              (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX);
  if (fits) out = value.get<int64_t>();
  return fits;
}
bool convert(const Json& value, double& out) {
  if (value.is_number()) out = value.get<double>();
  return value.is_number();
}
bool convert(const Json& value, std::string& out) {
  if (value.is_string()) out = value.get_ref<const std::string&>();
  return value.is_string();
}
template <class T>
bool convert(const Json& value, std::vector<T>& out) {
  if (!value.is_array()) return false;
  out.resize(value.size());
  for (size_t i = 0; i < out.size(); ++i)
    if (!convert(value[i], out[i])) return false;
  return true;
}

// The value of the key, or null where it is missing.
const Json* find(const Json& object, const std::string& key, const std::string& file) {
  if (!object.is_object())
    throw RunError(file + ": expected an object with `" + key + "`, got " + shown(object));
  auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

template <class T>
T read(const Json& value, const std::string& key, const std::string& file) {
  T out{};
  if (!convert(value, out))
    throw RunError(file + ": `" + key + "`: expected " + wanted(&out) + ", got " + shown(value));
  return out;
}

}  // namespace

Json parse_json(std::string_view text, const std::string& file, JsonLimits limits) {
  refuse_larger(text.size(), file, limits);
  Builder builder(text, file, limits.depth);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

Json read_json(const std::string& path, JsonLimits limits) {
  return parse_json(read_file(path, limits.bytes), path, limits);
}

template <class T>
T get(const Json& object, const std::string& key, const std::string& file) {
  const Json* value = find(object, key, file);
  if (!value)
    throw RunError(file + ": `" + key + "` is missing; expected " +
                   wanted(static_cast<T*>(nullptr)));
  return read<T>(*value, key, file);
}

template <class T>
T get_or(const Json& object, const std::string& key, const std::string& file, T otherwise) {
  const Json* value = find(object, key, file);
  return value && !value->is_null() ? read<T>(*value, key, file) : otherwise;
}

#define CONCLAVE_INSTANTIATE(T)                                           \
  template T get<T>(const Json&, const std::string&, const std::string&); \
  template T get_or<T>(const Json&, const std::string&, const std::string&, T);
CONCLAVE_INSTANTIATE(bool)
CONCLAVE_INSTANTIATE(int64_t)
CONCLAVE_INSTANTIATE(double)
CONCLAVE_INSTANTIATE(std::string)
CONCLAVE_INSTANTIATE(std::vector<int64_t>)
CONCLAVE_INSTANTIATE(std::vector<double>)
CONCLAVE_INSTANTIATE(std::vector<std::string>)
#undef CONCLAVE_INSTANTIATE

}  // namespace conclave
