// A part of a config whose keys are not ours to name: the `config.json` of a model, written inline.
// Whoever reads the keys refuses those it does not know, with the place where they stand.
#pragma once
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace conclave {

struct YamlNode;

struct ConfigTree {
  std::shared_ptr<const YamlNode> node;  // a mapping; null: not given
};

// As JSON: a plain scalar that reads as one is null, a bool, an integer or a number, all else is
// text. Not given: null.
nlohmann::json tree_json(const ConfigTree& tree);
// Where each top-level key stands: "demo.yaml:4:3".
std::map<std::string, std::string> tree_locations(const ConfigTree& tree);

// For config_slot.cpp: what is in `node` replaces what is in `tree`, key by key; and the tree as
// one line of YAML.
void merge_tree(const YamlNode& node, ConfigTree& tree);
std::string tree_text(const ConfigTree& tree);

}  // namespace conclave
