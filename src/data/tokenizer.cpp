#include "data/tokenizer.h"

#include <mutex>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/text.h"
#include "data/nfc.h"
#include "data/tokenizer_file.h"
#include "data/utf8.h"

namespace conclave::data {
namespace {

// The tokens that are looked for before (`normalized` false) or after normalization.
AddedTokenFinder finder(const TokenizerFile& file, bool normalized) {
  std::vector<AddedToken> tokens;
  for (const AddedToken& token : file.added)
    if (token.normalized == normalized) tokens.push_back(token);
  return AddedTokenFinder(std::move(tokens));
}

template <class Id>
std::string join_texts(std::span<const Id> ids, const std::vector<std::string>& texts) {
  std::string bytes;
  for (Id id : ids) {
    if (id < 0 || static_cast<size_t>(id) >= texts.size() || texts[id].empty())
      throw RunError(format("no token has the id %lld; the vocabulary's ids end at %zu",
                            static_cast<long long>(id), texts.size() - 1));
    bytes += texts[id];
  }
  return to_utf8_lossy(bytes);
}

}  // namespace

struct Tokenizer::Parts {
  bool nfc;
  uint64_t fingerprint;
  PreTokenizer pre_tokenizer;
  std::unordered_map<std::string, int32_t> ids;
  std::vector<std::string> texts;
  AddedTokenFinder raw, normalized;
  Bpe bpe;
  std::mutex mutex;  // of the cache
  WordCache cache;

  Parts(TokenizerFile file, uint64_t hash)
      : nfc(file.nfc),
        fingerprint(hash),
        pre_tokenizer(std::move(file.pre_tokenizer)),
        ids(std::move(file.ids)),
        texts(std::move(file.texts)),
        raw(finder(file, false)),
        normalized(finder(file, true)),
        bpe(std::move(file.tokens), file.merges, file.ignore_merges) {}

  // Calls fn with the text between the tokens that `finder` finds, and appends those tokens.
  template <class Fn>
  static void around(const AddedTokenFinder& finder, std::string_view text, bool allow_special,
                     std::vector<int32_t>& out, Fn&& fn) {
    for (size_t at = 0; at < text.size();) {
      auto found = finder.find(text, at, allow_special);
      if (found.begin > at) fn(text.substr(at, found.begin - at));
      if (found.token) out.push_back(found.token->id);
      at = found.end;
    }
  }
};

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::parse(std::string_view json, const std::string& file) {
  uint64_t hash = xxh3(std::as_bytes(std::span(json)));
  return Tokenizer(std::make_unique<Parts>(read_tokenizer_file(json, file), hash));
}

Tokenizer Tokenizer::load(const std::string& path) { return parse(read_file(path), path); }

void Tokenizer::encode(std::string_view text, bool allow_special, WordCache& cache,
                       std::vector<int32_t>& ids) const {
  if (size_t at = invalid_utf8(text); at != text.npos)
    throw RunError(format("the text is no UTF-8: byte 0x%02X at offset %zu",
                          static_cast<uint8_t>(text[at]), at));
  const Parts& p = *parts_;
  Words words;
  p.around(p.raw, text, allow_special, ids, [&](std::string_view part) {
    std::string composed;
    if (p.nfc) part = composed = to_nfc(part);
    p.around(p.normalized, part, allow_special, ids, [&](std::string_view plain) {
      p.pre_tokenizer.split(plain, words);
      for (std::string_view word : words) p.bpe.encode(word, cache, ids);
    });
  });
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool allow_special) const {
  std::vector<int32_t> ids;
  std::lock_guard lock(parts_->mutex);
  encode(text, allow_special, parts_->cache, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids) const {
  return join_texts(ids, parts_->texts);
}
std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  return join_texts(ids, parts_->texts);
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(parts_->texts.size()); }

std::optional<int32_t> Tokenizer::token_to_id(const std::string& token) const {
  auto found = parts_->ids.find(token);
  return found == parts_->ids.end() ? std::nullopt : std::optional(found->second);
}

uint64_t Tokenizer::fingerprint() const { return parts_->fingerprint; }

}  // namespace conclave::data
