// A YAML document as a plain tree with positions: the part of YAML that configs use. Anchors,
// aliases, tags, keys that are not text, and a key twice in one mapping are errors, so that what
// stands in the file is what is meant.
#pragma once
#include <string>
#include <vector>

namespace conclave {

struct YamlNode {
  enum class Kind { null, scalar, list, map };
  Kind kind = Kind::null;
  std::string text = {};   // of a scalar
  bool quoted = false;     // a scalar in quotes or a block scalar: text, never a number
  std::string where = {};  // "file:line:column" of the value
  std::string key = {};    // in a mapping: its key, and where that stands
  std::string key_where = {};
  std::vector<YamlNode> children = {};  // of a list or a mapping, in the order of the file
};

// `file` is what positions call it. No document gives null. Throws ConfigError.
YamlNode parse_yaml(const std::string& text, const std::string& file);
// As above for one value from the command line: every position is `where`.
YamlNode parse_yaml_value(const std::string& text, const std::string& where);

// A scalar that reads back as this text, quoted where YAML would take it for something else.
std::string yaml_text(const std::string& text);

}  // namespace conclave
