#include "base/config.h"

#include <algorithm>
#include <stdexcept>

#include "base/config_slot.h"
#include "base/files.h"
#include "base/text.h"
#include "base/yaml.h"

namespace conclave {
namespace {

constexpr uint64_t kLargestConfig = uint64_t{16} << 20;
constexpr size_t kDeepestSet = 64;  // a tree is walked and freed by recursion

std::string below_path(const std::string& parent, const std::string& key) {
  return parent.empty() ? key : parent + '.' + key;
}

std::string parent_of(const std::string& path) {
  size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

std::string name_of(const std::string& path) {
  size_t dot = path.rfind('.');
  return dot == std::string::npos ? path : path.substr(dot + 1);
}

// What the reader of an unknown key most likely meant: "; did you mean …?", or "".
std::string suggestion(const std::string& path, const std::set<std::string>& known) {
  std::string name = name_of(path);
  std::vector<std::string> siblings, others, homes;
  for (const std::string& key : known) {
    if (name_of(key) == name)
      homes.push_back(parent_of(key).empty() ? "at the top level"
                                             : "under `" + parent_of(key) + '`');
    if (parent_of(key) == parent_of(path))
      siblings.push_back(name_of(key));
    else
      others.push_back(name_of(key));
  }
  if (!homes.empty()) return "; `" + name + "` belongs " + join_or(homes);
  std::string near = nearest(name, siblings);
  if (!near.empty()) return "; did you mean `" + near + "`?";
  near = nearest(name, others);
  if (near.empty()) return "";
  for (const std::string& key : known)
    if (name_of(key) == near) return "; did you mean `" + key + "`?";
  return "";
}

}  // namespace

// Walks the tree and fields() side by side: one pass for the file and one for each --set.
class ConfigReader : public Fields {
 public:
  ConfigReader(ConfigSource& source, std::string verb) : source_(source), verb_(std::move(verb)) {}

  static ConfigSource make_source(Visitable& config, const std::string& file) {
    ConfigSource source;
    source.file_ = file;
    for (const ConfigKey& key : config_keys_of(config)) source.known_.insert(key.path);
    return source;
  }

  void apply(const YamlNode& root, Visitable& config) {
    if (root.kind == YamlNode::Kind::null) return;  // an empty file: all defaults
    if (root.kind != YamlNode::Kind::map)
      throw ConfigError(root.where + ": expected keys and values, such as `seed: 1`");
    refuse_unknown(root, "");
    open_ = {{&root, ""}};
    config.visit(*this);
  }

 private:
  struct Open {
    const YamlNode* map;
    std::string path;
  };

  const YamlNode* find(const char* key) const {
    for (const YamlNode& child : open_.back().map->children)
      if (child.key == key) return &child;
    return nullptr;
  }

  void leaf(const char* key, Slot slot, const char*, const Check& check) override {
    const YamlNode* node = find(key);
    if (!node) return;
    std::string path = below_path(open_.back().path, key);
    read_slot(*node, path, slot, check);
    source_.keys_[path] = node->key_where;
  }

  bool enter(const char* key, const char*) override {
    const YamlNode* node = find(key);
    if (!node) return false;
    std::string path = below_path(open_.back().path, key);
    if (node->kind != YamlNode::Kind::map)
      throw ConfigError(node->key_where + ": `" + path + "`: expected keys and values under it");
    refuse_unknown(*node, path);
    source_.structs_[path] = node->key_where;
    open_.push_back({node, path});
    return true;
  }

  void leave() override { open_.pop_back(); }

  void refuse_unknown(const YamlNode& map, const std::string& parent) const {
    for (const YamlNode& child : map.children) {
      std::string path = below_path(parent, child.key);
      bool known = child.key.find('.') == std::string::npos && source_.known_.contains(path);
      if (!known)
        throw ConfigError(child.key_where + ": unknown key `" + path + '`' +
                          suggestion(path, source_.known_) + " (conclave help " + verb_ +
                          " lists all keys)");
    }
  }

  ConfigSource& source_;
  std::string verb_;
  std::vector<Open> open_;
};

namespace {

// "a.b=c" as the tree {a: {b: c}}, every position being the text itself.
YamlNode tree_of_set(const std::string& text) {
  std::string where = "--set " + text;
  std::replace(where.begin(), where.end(), '\n', ' ');
  size_t equals = text.find('=');
  if (equals == std::string::npos)
    throw ConfigError(where + ": expected KEY=VALUE, such as optimizer.lr=0.001");
  YamlNode node = parse_yaml_value(text.substr(equals + 1), where);
  std::vector<std::string> names = split(text.substr(0, equals), '.');
  if (names.size() > kDeepestSet) throw ConfigError(where + ": expected fewer dots in KEY=VALUE");
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    if (name->empty())
      throw ConfigError(where + ": expected KEY=VALUE with names between the dots");
    node.key = *name;
    node.key_where = where;
    node = {.kind = YamlNode::Kind::map, .where = where, .children = {std::move(node)}};
  }
  return node;
}

std::string read_config_file(const std::string& path) {
  try {
    return read_file(path, kLargestConfig);
  } catch (const RunError& error) {
    throw ConfigError(error.what());  // the path came from the user
  }
}

}  // namespace

ConfigSource read_config_into(Visitable& config, const std::string& path,
                              const std::vector<std::string>& sets, const std::string& verb) {
  ConfigSource source = ConfigReader::make_source(config, path);
  ConfigReader reader(source, verb);
  if (!path.empty()) reader.apply(parse_yaml(read_config_file(path), path), config);
  for (const std::string& set : sets) reader.apply(tree_of_set(set), config);
  return source;
}

bool ConfigSource::is_set(const std::string& path) const {
  if (!known_.contains(path)) throw std::logic_error("ConfigSource::is_set: no key `" + path + '`');
  auto inside = keys_.lower_bound(path + '.');
  return keys_.contains(path) || (inside != keys_.end() && inside->first.starts_with(path + '.'));
}

std::string ConfigSource::location(const std::string& path) const {
  if (!known_.contains(path))
    throw std::logic_error("ConfigSource::location: no key `" + path + '`');
  if (auto key = keys_.find(path); key != keys_.end()) return key->second;
  for (std::string parent = path; !parent.empty(); parent = parent_of(parent))
    if (auto found = structs_.find(parent); found != structs_.end()) return found->second;
  return file_;
}

ConfigError ConfigSource::error(const std::string& path, const std::string& message) const {
  std::string where = location(path);
  return ConfigError(where + (where.empty() ? "`" : ": `") + path + "`: " + message);
}

void ConfigSource::require(const std::string& path) const {
  if (!is_set(path))
    throw error(path, "is required; set it in the file or with --set " + path + "=VALUE");
}

}  // namespace conclave
