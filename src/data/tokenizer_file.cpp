#include "data/tokenizer_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json.h"
#include "data/byte_chars.h"
#include "data/nfc.h"

namespace conclave::data {
namespace {

using Json = nlohmann::json;

// Tables are as long as the highest id: a damaged one must not take all memory.
constexpr int64_t kMaxHoles = 1 << 16;

class Reader {
 public:
  Reader(const Json& root, const std::string& file) : root_(root), file_(file) {}

  TokenizerFile read() {
    if (!root_.is_object()) refuse("the file", "an object", root_);
    refuse_other_keys(root_, "",
                      {"version", "truncation", "padding", "added_tokens", "normalizer",
                       "pre_tokenizer", "post_processor", "decoder", "model"});
    if (get_or<std::string>(root_, "version", file_, "1.0") != "1.0")
      refuse("version", "\"1.0\"", root_["version"]);
    for (const char* key : {"truncation", "padding"})
      if (!member(root_, key).is_null()) refuse(key, "null", root_[key]);
    read_normalizer();
    out_.pre_tokenizer = read_pre_tokenizer(member(root_, "pre_tokenizer"), file_);
    expect_byte_level("post_processor", true);
    expect_byte_level("decoder", false);
    read_model(member(root_, "model"));
    read_added(member(root_, "added_tokens"));
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& key, const std::string& expected,
                           const Json& got) const {
    std::string text = got.is_object() && got.contains("type") && got["type"].is_string()
                           ? "one of type " + got["type"].dump(-1, ' ', true)
                           : got.dump(-1, ' ', true);
    if (text.size() > 100) text = text.substr(0, 100) + "…";
    throw RunError(file_ + ": `" + key + "`: expected " + expected + ", got " + text);
  }

  static const Json& member(const Json& object, const char* key) {
    static const Json null;
    auto found = object.find(key);
    return found == object.end() ? null : *found;
  }

  void refuse_other_keys(const Json& object, const std::string& at,
                         const std::vector<std::string>& known) const {
    for (const auto& [key, value] : object.items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        throw RunError(file_ + ": `" + at + key + "`: this key is not taken");
  }

  void read_normalizer() {
    const Json& value = member(root_, "normalizer");
    if (value.is_null()) return;
    if (!value.is_object() || member(value, "type") != "NFC")
      refuse("normalizer", "null or one of type NFC", value);
    out_.nfc = true;
  }

  // Neither the parts of a ByteLevel post-processor nor those of the decoder change ids or text.
  void expect_byte_level(const char* key, bool or_null) const {
    const Json& value = member(root_, key);
    if (or_null && value.is_null()) return;
    if (!value.is_object() || member(value, "type") != "ByteLevel")
      refuse(key, or_null ? "null or one of type ByteLevel" : "one of type ByteLevel", value);
  }

  // The id must be free; the token decodes to the bytes of its characters, or to itself.
  void add_token(const std::string& token, int64_t id, const std::string& key) {
    if (id < 0 || id > max_id_) refuse(key, "an id from 0 to " + std::to_string(max_id_), id);
    size_t at = static_cast<size_t>(id);
    if (at >= out_.texts.size()) out_.texts.resize(at + 1);
    if (!out_.texts[at].empty()) refuse(key, "an id that no other token has", id);
    out_.texts[at] = from_byte_chars(token).value_or(token);
    out_.ids.emplace(token, static_cast<int32_t>(id));
  }

  void read_model(const Json& model) {
    if (!model.is_object()) refuse("model", "an object", model);
    if (get_or<std::string>(model, "type", file_, "BPE") != "BPE")
      refuse("model", "one of type BPE", model);
    refuse_other_keys(
        model, "model.",
        {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
         "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    if (get_or<double>(model, "dropout", file_, 0) != 0)
      refuse("model.dropout", "null or 0", model["dropout"]);
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!get_or<std::string>(model, key, file_, "").empty())
        refuse(std::string("model.") + key, "null or \"\"", model[key]);
    if (get_or<bool>(model, "byte_fallback", file_, false))
      refuse("model.byte_fallback", "false", true);
    out_.ignore_merges = get_or<bool>(model, "ignore_merges", file_, false);
    read_vocab(member(model, "vocab"));
    read_merges(member(model, "merges"));
    // With every byte a token nothing is ever unknown.
    const Json& unknown = member(model, "unk_token");
    for (uint8_t byte : bytes_in_char_order())
      if (!unknown.is_null() &&
          !out_.ids.contains(to_byte_chars({reinterpret_cast<char*>(&byte), 1})))
        refuse("model.unk_token", "null, since a byte is no token", unknown);
  }

  void read_vocab(const Json& vocab) {
    if (!vocab.is_object() || vocab.empty()) refuse("model.vocab", "an object of tokens", vocab);
    max_id_ = 2 * static_cast<int64_t>(vocab.size()) + kMaxHoles;
    for (const auto& [token, id] : vocab.items()) {
      std::string key = "model.vocab." + token;
      if (token.empty()) refuse("model.vocab", "tokens that are not empty", token);
      if (!id.is_number_integer()) refuse(key, "a whole number", id);
      const bool large = id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX;
      add_token(token, large ? INT64_MAX : id.get<int64_t>(), key);
    }
    out_.tokens.resize(out_.texts.size());
    for (const auto& [token, id] : out_.ids)
      if (auto bytes = from_byte_chars(token)) out_.tokens[id] = *bytes;
  }

  void read_merges(const Json& merges) {
    if (!merges.is_array()) refuse("model.merges", "a list", merges);
    for (size_t i = 0; i < merges.size(); ++i) {
      const Json& merge = merges[i];
      auto refuse_merge = [&](const char* expected) {
        refuse("model.merges[" + std::to_string(i) + "]", expected, merge);
      };
      std::string left, right;
      if (merge.is_string()) {
        const auto& pair = merge.get_ref<const std::string&>();
        size_t space = pair.find(' ');
        if (space == pair.npos || pair.find(' ', space + 1) != pair.npos)
          refuse_merge("two tokens with a space between them");
        left = pair.substr(0, space), right = pair.substr(space + 1);
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        left = merge[0], right = merge[1];
      } else {
        refuse_merge("\"a b\" or [\"a\", \"b\"]");
      }
      auto l = out_.ids.find(left), r = out_.ids.find(right), both = out_.ids.find(left + right);
      if (l == out_.ids.end() || r == out_.ids.end() || both == out_.ids.end())
        refuse_merge("two tokens of the vocabulary that make a third");
      out_.merges.push_back({l->second, r->second, both->second});
    }
  }

  void read_added(const Json& list) {
    if (list.is_null()) return;
    if (!list.is_array()) refuse("added_tokens", "a list", list);
    int64_t next =
        static_cast<int64_t>(out_.ids.size());  // the id of a token that the model has not
    for (size_t i = 0; i < list.size(); ++i) {
      std::string at = "added_tokens[" + std::to_string(i) + "]";
      const Json& value = list[i];
      if (!value.is_object()) refuse(at, "an object", value);
      refuse_other_keys(
          value, at + ".",
          {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (get<bool>(value, key, file_)) refuse(at + "." + key, "false", true);
      AddedToken token{get<std::string>(value, "content", file_), 0,
                       get<bool>(value, "special", file_), get<bool>(value, "normalized", file_)};
      if (token.normalized && out_.nfc) token.content = to_nfc(token.content);
      if (token.content.empty()) refuse(at + ".content", "text that is not empty", "");
      for (const AddedToken& other : out_.added)
        if (other.content == token.content) refuse(at + ".content", "a token once", token.content);
      auto known = out_.ids.find(token.content);
      int64_t id = get<int64_t>(value, "id", file_);
      int64_t expected = known == out_.ids.end() ? next : known->second;
      if (id != expected) refuse(at + ".id", std::to_string(expected), id);
      if (known == out_.ids.end()) add_token(token.content, id, at + ".id"), ++next;
      token.id = static_cast<int32_t>(id);
      out_.added.push_back(std::move(token));
    }
  }

  const Json& root_;
  const std::string& file_;
  int64_t max_id_ = 0;
  TokenizerFile out_;
};

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view json, const std::string& file) {
  Json root = parse_json(json, file);
  return Reader(root, file).read();
}

}  // namespace conclave::data
