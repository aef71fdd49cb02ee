#include "base/config_slot.h"

#include <charconv>
#include <cmath>
#include <stdexcept>

#include "base/text.h"

namespace conclave {
namespace {

using Kind = YamlNode::Kind;

// What came, for a message: short and on one line.
std::string shown(const YamlNode& node) {
  if (node.kind == Kind::null) return "nothing";
  if (node.kind == Kind::list) return format("a list of %zu", node.children.size());
  if (node.kind == Kind::map) return "a mapping";
  std::string text = node.text.size() > 60 ? node.text.substr(0, 60) + "…" : node.text;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return node.quoted ? "the text \"" + text + '"' : '`' + text + '`';
}

// One value to read: all that a message needs.
struct Value {
  const YamlNode& node;
  const std::string& path;
  const Check& check;

  [[noreturn]] void refuse(const std::string& expected, const std::string& hint = "") const {
    const std::string& where =
        node.kind == Kind::null && !node.key_where.empty() ? node.key_where : node.where;
    throw ConfigError(where + ": `" + path + "`: expected " + expected + ", got " + shown(node) +
                      hint);
  }
  bool is_plain() const { return node.kind == Kind::scalar && !node.quoted; }
};

void check_number(const Value& value, double x, const std::string& what) {
  const Check& c = value.check;
  bool fine = true;
  switch (c.kind) {
    case Check::Kind::none:
      break;
    case Check::Kind::positive:
      fine = x > 0;
      break;
    case Check::Kind::not_negative:
      fine = x >= 0;
      break;
    case Check::Kind::half_open:
      fine = c.lo <= x && x < c.hi;
      break;
    case Check::Kind::closed:
      fine = c.lo <= x && x <= c.hi;
      break;
    case Check::Kind::at_least:
      fine = x >= c.lo;
      break;
    case Check::Kind::one_of:
      throw std::logic_error("`" + value.path + "`: one_of is for text");
  }
  if (!fine) value.refuse(what + ' ' + check_range(c));
}

void read(const Value& value, bool& out) {
  bool is_true = value.is_plain() && value.node.text == "true";
  if (!is_true && !(value.is_plain() && value.node.text == "false")) value.refuse("true or false");
  out = is_true;
}

void read(const Value& value, int64_t& out) {
  const std::string what = "a whole number";
  const std::string& text = value.node.text;
  size_t sign = !text.empty() && text[0] == '+' ? 1 : 0;  // from_chars reads '-' alone
  int64_t x = 0;
  auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), x);
  bool digits =
      text.size() > sign && !(sign == 1 && text[1] == '-') && end == text.data() + text.size();
  if (value.is_plain() && digits && error == std::errc::result_out_of_range)
    value.refuse(what + " of at most 64 bits");
  if (!value.is_plain() || !digits || error != std::errc()) value.refuse(what);
  check_number(value, static_cast<double>(x), what);
  out = x;
}

void read(const Value& value, double& out) {
  const std::string what = "a number";
  const std::string& text = value.node.text;
  size_t sign = !text.empty() && text[0] == '+' ? 1 : 0;
  double x = 0;
  auto [end, error] = std::from_chars(text.data() + sign, text.data() + text.size(), x);
  bool spelt = text.size() > sign &&
               text.find_first_not_of("+-.0123456789eE") == std::string::npos &&
               !(sign == 1 && text[1] == '-') && end == text.data() + text.size();
  if (value.is_plain() && (text == ".inf" || text == "-.inf" || text == "+.inf" || text == ".nan" ||
                           (spelt && error == std::errc::result_out_of_range)))
    value.refuse("a finite number");
  if (!value.is_plain() || !spelt || error != std::errc()) value.refuse(what);
  check_number(value, x, what);
  out = x;
}

void read(const Value& value, std::string& out) {
  if (value.node.kind == Kind::map) value.refuse("text", "; text with `: ` in it needs quotes");
  if (value.node.kind == Kind::null) value.refuse("text", "; the empty text is \"\"");
  if (value.node.kind != Kind::scalar) value.refuse("text");
  const Check& c = value.check;
  if (c.kind != Check::Kind::none && c.kind != Check::Kind::one_of)
    throw std::logic_error("`" + value.path + "`: a check of numbers on text");
  if (c.kind == Check::Kind::one_of) {
    bool known = false;
    for (const std::string& name : c.names) known = known || name == value.node.text;
    std::string near = nearest(value.node.text, c.names);
    if (!known)
      value.refuse(join_or(c.names), near.empty() ? "" : "; did you mean `" + near + "`?");
  }
  out = value.node.text;
}

template <class T>
void read(const Value& value, std::optional<T>& out) {
  if (value.node.kind == Kind::null) {
    out.reset();
    return;
  }
  T inner{};
  read(value, inner);
  out = inner;
}

template <class T>
void read(const Value& value, std::vector<T>& out) {
  if (value.node.kind != Kind::list) value.refuse("a list, such as [a, b]");
  std::vector<T> items(value.node.children.size());
  for (size_t i = 0; i < items.size(); ++i)
    read(Value{value.node.children[i], value.path, value.check}, items[i]);
  out = std::move(items);
}

void read(const Value& value, std::pair<double*, double*>& out) {
  if (value.node.kind != Kind::list || value.node.children.size() != 2)
    value.refuse("a list of two numbers");
  read(Value{value.node.children[0], value.path, value.check}, *out.first);
  read(Value{value.node.children[1], value.path, value.check}, *out.second);
}

void read(const Value& value, ConfigTree& out) {
  if (value.node.kind == Kind::null) {
    out = {};
    return;
  }
  if (value.node.kind != Kind::map) value.refuse("keys and values under it");
  merge_tree(value.node, out);
}

const char* type_of(const ConfigTree&) { return "keys and values or null"; }
const char* type_of(bool) { return "true or false"; }
const char* type_of(int64_t) { return "whole number"; }
const char* type_of(double) { return "number"; }
const char* type_of(const std::string&) { return "text"; }
template <class T>
std::string type_of(const std::optional<T>&) {
  return std::string(type_of(T{})) + " or null";
}
template <class T>
std::string type_of(const std::vector<T>&) {
  return std::is_same_v<T, std::string> ? "list of text" : "list of whole numbers";
}

std::string text_of(const ConfigTree& value) { return tree_text(value); }
std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(int64_t value) { return std::to_string(value); }
std::string text_of(double value) { return shortest(value); }
std::string text_of(const std::string& value) { return yaml_text(value); }
template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "null";
}
template <class T>
std::string text_of(const std::vector<T>& value) {
  std::vector<std::string> items;
  for (const T& item : value) items.push_back(text_of(item));
  return '[' + join(items, ", ") + ']';
}

}  // namespace

void read_slot(const YamlNode& node, const std::string& path, Slot slot, const Check& check) {
  Value value{node, path, check};
  std::visit(
      [&](auto target) {
        if constexpr (std::is_pointer_v<decltype(target)>)
          read(value, *target);
        else
          read(value, target);
      },
      slot);
}

std::string slot_type(const Slot& slot) {
  if (std::holds_alternative<std::pair<double*, double*>>(slot)) return "two numbers";
  return std::visit(
      [](auto member) -> std::string {
        if constexpr (std::is_pointer_v<decltype(member)>)
          return type_of(*member);
        else
          return "";
      },
      slot);
}

std::string slot_value(const Slot& slot) {
  return std::visit(
      [](auto member) -> std::string {
        if constexpr (std::is_pointer_v<decltype(member)>)
          return text_of(*member);
        else
          return text_of(std::vector<double>{*member.first, *member.second});
      },
      slot);
}

std::string check_range(const Check& check) {
  std::string lo = shortest(check.lo), hi = shortest(check.hi);
  switch (check.kind) {
    case Check::Kind::none:
      return "";
    case Check::Kind::positive:
      return "> 0";
    case Check::Kind::not_negative:
      return ">= 0";
    case Check::Kind::half_open:
      return ">= " + lo + " and < " + hi;
    case Check::Kind::closed:
      return ">= " + lo + " and <= " + hi;
    case Check::Kind::at_least:
      return ">= " + lo;
    case Check::Kind::one_of:
      return join_or(check.names);
  }
  throw std::logic_error("unknown kind of check");
}

}  // namespace conclave
