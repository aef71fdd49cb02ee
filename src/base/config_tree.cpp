#include "base/config_tree.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/yaml.h"

namespace conclave {
namespace {

using Kind = YamlNode::Kind;

template <class T>
bool parse_whole(const std::string& text, T& out) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  return error == std::errc() && end == text.data() + text.size();
}

nlohmann::json json_of(const YamlNode& node) {
  if (node.kind == Kind::null) return nullptr;
  if (node.kind == Kind::list) {
    auto list = nlohmann::json::array();
    for (const auto& child : node.children) list.push_back(json_of(child));
    return list;
  }
  if (node.kind == Kind::map) {
    auto map = nlohmann::json::object();
    for (const auto& child : node.children) map[child.key] = json_of(child);
    return map;
  }
  if (node.quoted) return node.text;
  if (node.text == "true" || node.text == "false") return node.text == "true";
  int64_t integer = 0;
  double number = 0;
  if (parse_whole(node.text, integer)) return integer;
  if (parse_whole(node.text, number) && std::isfinite(number)) return number;
  return node.text;
}

std::string text_of(const YamlNode& node) {
  if (node.kind == Kind::null) return "null";
  if (node.kind == Kind::scalar)
    return json_of(node).is_string() ? yaml_text(node.text) : node.text;
  std::string out;
  for (const auto& child : node.children) {
    if (!out.empty()) out += ", ";
    if (node.kind == Kind::map) out += yaml_text(child.key) + ": ";
    out += text_of(child);
  }
  return node.kind == Kind::map ? '{' + out + '}' : '[' + out + ']';
}

}  // namespace

nlohmann::json tree_json(const ConfigTree& tree) {
  return tree.node ? json_of(*tree.node) : nlohmann::json();
}

std::map<std::string, std::string> tree_locations(const ConfigTree& tree) {
  std::map<std::string, std::string> out;
  if (tree.node)
    for (const auto& child : tree.node->children) out[child.key] = child.key_where;
  return out;
}

void merge_tree(const YamlNode& node, ConfigTree& tree) {
  YamlNode merged = tree.node ? *tree.node : node;
  if (tree.node)
    for (const auto& child : node.children) {
      auto same = std::find_if(merged.children.begin(), merged.children.end(),
                               [&](const auto& c) { return c.key == child.key; });
      if (same == merged.children.end())
        merged.children.push_back(child);
      else
        *same = child;
    }
  tree.node = std::make_shared<const YamlNode>(std::move(merged));
}

std::string tree_text(const ConfigTree& tree) { return tree.node ? text_of(*tree.node) : "null"; }

}  // namespace conclave
