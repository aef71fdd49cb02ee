#include "data/tokenized_text.h"

#include <array>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/text.h"

namespace conclave::data {
namespace {

// A cache file: Head, then ids and doc_offsets of training, then of validation, then the hash of
// all before it. Little-endian, read on the machine that wrote it.
struct Head {
  std::array<char, 16> magic = {"conclave tokens"};
  uint64_t key = 0;
  struct Part {
    uint64_t bytes = 0, tokens = 0, docs = 0;
  } train, validation;
};

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

std::string cache_content(uint64_t key, const TokenizedText& train,
                          const TokenizedText& validation) {
  auto part = [](const TokenizedText& text) {
    return Head::Part{text.bytes, static_cast<uint64_t>(text.tokens()),
                      static_cast<uint64_t>(text.docs())};
  };
  Head head;
  head.key = key;
  head.train = part(train), head.validation = part(validation);
  std::string content;
  auto put = [&](std::span<const std::byte> bytes) {
    content.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  put(std::as_bytes(std::span(&head, 1)));
  for (const TokenizedText* text : {&train, &validation}) {
    put(bytes_of(text->ids));
    put(bytes_of(text->doc_offsets));
  }
  uint64_t hash = xxh3(std::as_bytes(std::span(content)));
  put(std::as_bytes(std::span(&hash, 1)));
  return content;
}

// The two texts of a cache file, or nothing if any of it is not as it was written.
std::optional<std::array<TokenizedText, 2>> parse_cache(std::span<const std::byte> bytes,
                                                        uint64_t key) {
  Head head, expected;
  uint64_t hash;
  if (bytes.size() < sizeof head + sizeof hash) return std::nullopt;
  std::memcpy(&head, bytes.data(), sizeof head);
  std::memcpy(&hash, bytes.data() + bytes.size() - sizeof hash, sizeof hash);
  bytes = bytes.first(bytes.size() - sizeof hash);
  if (head.magic != expected.magic || head.key != key || hash != xxh3(bytes)) return std::nullopt;
  bytes = bytes.subspan(sizeof head);
  std::array<TokenizedText, 2> texts;
  for (int i = 0; i < 2; ++i) {
    const Head::Part& part = i == 0 ? head.train : head.validation;
    TokenizedText& text = texts[i];
    text.bytes = part.bytes;
    auto take = [&](auto& values, uint64_t count) {
      uint64_t size = count * sizeof values[0];
      if (count > bytes.size() || size > bytes.size()) return false;
      values.resize(count);
      std::memcpy(values.data(), bytes.data(), size);
      bytes = bytes.subspan(size);
      return true;
    };
    if (!take(text.ids, part.tokens) || !take(text.doc_offsets, part.docs + 1)) return std::nullopt;
  }
  return texts;
}

TokenizedCorpus tokenize(const Corpus& corpus, const Tokenizer& tokenizer, int32_t eos) {
  auto train = std::make_shared<TokenizedText>(), validation = std::make_shared<TokenizedText>();
  WordCache words;
  corpus.for_each("tokenizing", [&](int64_t index, std::string_view text) {
    TokenizedText& into = corpus.held_out(index) ? *validation : *train;
    tokenizer.encode(text, false, words, into.ids);
    into.ids.push_back(eos);
    into.doc_offsets.push_back(into.tokens());
    into.bytes += text.size();
  });
  return {train, validation, eos, false};
}

void refuse_empty(const TokenizedCorpus& corpus, const TextConfig& config) {
  bool asks = config.validation_every || config.validation_fraction > 0;
  const char* empty = corpus.train->docs() == 0            ? "training"
                      : asks && !corpus.validation->docs() ? "validation"
                                                           : nullptr;
  if (empty)
    throw RunError(
        format("of %lld documents none is left for %s; give more documents or another "
               "validation_fraction or validation_every",
               static_cast<long long>(corpus.train->docs() + corpus.validation->docs()), empty));
}

}  // namespace

TokenizedCorpus tokenize_corpus(const TextConfig& config, const Tokenizer& tokenizer,
                                const std::string& eos, const std::string& cache_folder) {
  auto end = tokenizer.token_to_id(eos);
  if (!end) throw RunError("the tokenizer has no token \"" + eos + "\" to end a document with");
  Corpus corpus(config);
  if (cache_folder.empty()) {
    TokenizedCorpus made = tokenize(corpus, tokenizer, *end);
    refuse_empty(made, config);
    return made;
  }
  std::array<uint64_t, 3> parts = {corpus.fingerprint(), tokenizer.fingerprint(),
                                   static_cast<uint64_t>(*end)};
  const uint64_t key = xxh3(std::as_bytes(std::span(parts)));
  const std::string path = cache_folder + "/" + hash_hex(key) + ".tokens";
  if (path_exists(path)) {
    if (auto texts = parse_cache(MappedFile(path).bytes(), key))
      return {std::make_shared<TokenizedText>(std::move((*texts)[0])),
              std::make_shared<TokenizedText>(std::move((*texts)[1])), *end, true};
    log_warn(path + ": damaged; it is made again from the text");
  }
  TokenizedCorpus made = tokenize(corpus, tokenizer, *end);
  refuse_empty(made, config);
  try {
    make_folder(cache_folder);
    write_file_atomic(path, cache_content(key, *made.train, *made.validation));
  } catch (const RunError& error) {
    log_warn(std::string("the tokens are not kept for the next start: ") + error.what());
  }
  return made;
}

}  // namespace conclave::data
