// The files of a trained tokenizer, written by hand so that ids stand in order and the bytes are
// the same everywhere.
#include <nlohmann/json.hpp>

#include "base/files.h"
#include "data/bpe_trainer.h"
#include "data/byte_chars.h"
#include "data/pre_tokenizer.h"

namespace conclave::data {
namespace {

std::string json_text(const std::string& text) { return nlohmann::json(text).dump(); }

}  // namespace

std::string TrainedTokenizer::to_json() const {
  std::vector<std::string> chars;
  for (const std::string& token : tokens) chars.push_back(to_byte_chars(token));
  std::string out = "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n";
  out += "  \"added_tokens\": [";
  for (size_t i = 0; i < special_tokens.size(); ++i)
    out += std::string(i == 0 ? "\n" : ",\n") +
           "    {\"id\": " + std::to_string(tokens.size() + i) +
           ", \"content\": " + json_text(special_tokens[i]) +
           ", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
           "\"normalized\": false, \"special\": true}";
  out += "\n  ],\n  \"normalizer\": null,\n";
  out +=
      "  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
      "    {\"type\": \"Split\", \"pattern\": {\"Regex\": " +
      json_text(kQwen2Pattern) +
      "}, \"behavior\": \"Isolated\", \"invert\": false},\n"
      "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": false, "
      "\"use_regex\": false}\n  ]},\n"
      "  \"post_processor\": null,\n"
      "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
      "\"trim_offsets\": false, \"use_regex\": false},\n"
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n"
      "    \"fuse_unk\": false,\n    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
      "    \"vocab\": {";
  for (size_t id = 0; id < chars.size(); ++id)
    out += (id == 0 ? "\n      " : ",\n      ") + json_text(chars[id]) + ": " + std::to_string(id);
  out += "\n    },\n    \"merges\": [";
  for (size_t i = 0; i < merges.size(); ++i)
    out += (i == 0 ? "\n      [" : ",\n      [") + json_text(chars[merges[i].first]) + ", " +
           json_text(chars[merges[i].second]) + "]";
  return out + "\n    ]\n  }\n}\n";
}

void TrainedTokenizer::save(const std::string& folder) const {
  make_folder(folder);
  write_file_atomic(folder + "/tokenizer.json", to_json());
  write_file_atomic(folder + "/tokenizer_config.json",
                    "{\n  \"clean_up_tokenization_spaces\": false,\n  \"eos_token\": " +
                        json_text(special_tokens.at(0)) +
                        ",\n  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n}\n");
}

}  // namespace conclave::data
