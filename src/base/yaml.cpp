#include "base/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace conclave {
namespace {

// Builds the tree from yaml-cpp's events. open_ holds the lists and mappings not yet closed,
// outermost first.
class Builder : public YAML::EventHandler {
 public:
  Builder(std::string file, bool positions) : file_(std::move(file)), positions_(positions) {}

  std::string where(const YAML::Mark& mark) const {
    if (!positions_ || mark.is_null()) return file_;
    return format("%s:%d:%d", file_.c_str(), mark.line + 1, mark.column + 1);
  }
  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      throw ConfigError(where(mark) + ": expected one YAML document, got a second one (`---`)");
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    if (wants_key()) refuse_key(mark);
    put({.kind = YamlNode::Kind::null, .where = where(mark)});
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override { refuse_anchor(mark); }
  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse_anchor(mark); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    check_tag(mark, tag);
    if (wants_key()) return put_key(mark, value);
    put({.kind = YamlNode::Kind::scalar,
         .text = value,
         .quoted = tag == "!",
         .where = where(mark)});
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::list);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, YamlNode::Kind::map);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Key {
    std::string text, where;
  };
  struct Open {
    YamlNode node;
    bool has_key = false;  // of a mapping: the key is read, its value comes next
    Key key = {};
  };

  bool wants_key() const {
    return !open_.empty() && open_.back().node.kind == YamlNode::Kind::map && !open_.back().has_key;
  }
  void put_key(const YAML::Mark& mark, const std::string& text) {
    Open& map = open_.back();
    for (const YamlNode& sibling : map.node.children)
      if (sibling.key == text)
        throw ConfigError(where(mark) + ": the key `" + text +
                          "` stands twice in one mapping, first at " + sibling.key_where);
    map.key = {text, where(mark)};
    map.has_key = true;
  }
  void put(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Open& parent = open_.back();
    if (parent.has_key) {
      node.key = std::exchange(parent.key.text, {});
      node.key_where = std::exchange(parent.key.where, {});
      parent.has_key = false;
    }
    parent.node.children.push_back(std::move(node));
  }
  void open(const YAML::Mark& mark, const std::string& tag, YamlNode::Kind kind) {
    check_tag(mark, tag);
    if (wants_key()) refuse_key(mark);
    open_.push_back({.node = {.kind = kind, .where = where(mark)}});
  }
  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    put(std::move(node));
  }
  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (!tag.empty() && tag != "?" && tag != "!")
      throw ConfigError(where(mark) + ": tags such as `" + tag +
                        "` have no meaning here; leave it out");
  }
  [[noreturn]] void refuse_key(const YAML::Mark& mark) const {
    throw ConfigError(where(mark) +
                      ": expected a key that is plain text; a bracket may be missing");
  }
  [[noreturn]] void refuse_anchor(const YAML::Mark& mark) const {
    throw ConfigError(where(mark) +
                      ": anchors and aliases (`&`, `*`) are not read; write the value out, "
                      "or in quotes if it is text");
  }

  std::string file_;
  bool positions_;
  int documents_ = 0;
  YamlNode root_;
  std::vector<Open> open_;
};

YamlNode parse(const std::string& text, const std::string& file, bool positions) {
  Builder builder(file, positions);
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    throw ConfigError(builder.where(error.mark) + ": not YAML: " + error.msg);
  }
  return builder.take();
}

// Whether a plain scalar of these letters is text to every YAML reader.
bool plain_is_safe(const std::string& text) {
  auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  auto safe = [&](char c) {
    return letter(c) || (c >= '0' && c <= '9') || c == '_' || c == '/' || c == '.' || c == '-';
  };
  if (text.empty() || !(letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
  if (!std::all_of(text.begin(), text.end(), safe)) return false;
  std::string lower = text;
  for (char& c : lower)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  for (const char* word : {"null", "true", "false", "yes", "no", "on", "off", "y", "n"})
    if (lower == word) return false;
  return true;
}

}  // namespace

YamlNode parse_yaml(const std::string& text, const std::string& file) {
  return parse(text, file, true);
}

YamlNode parse_yaml_value(const std::string& text, const std::string& where) {
  return parse(text, where, false);
}

std::string yaml_text(const std::string& text) {
  if (plain_is_safe(text)) return text;
  std::string out = "\"";
  for (char c : text) {
    unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (byte < 0x20 || byte == 0x7f)
      out += format("\\x%02x", byte);
    else
      out += c;
  }
  return out + '"';
}

}  // namespace conclave
