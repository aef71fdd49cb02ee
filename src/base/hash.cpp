#include "base/hash.h"

// g++ 12 warns of its own AVX-512 intrinsics (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/text.h"

namespace conclave {

struct Hasher::State {
  XXH3_state_t xxh;
};

uint64_t xxh3(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Hasher::Hasher() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh); }
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size());
}

uint64_t Hasher::digest() const { return XXH3_64bits_digest(&state_->xxh); }

std::string Hasher::hex() const { return hash_hex(digest()); }

std::string hash_hex(uint64_t hash) {
  return format("%016llx", static_cast<unsigned long long>(hash));
}

}  // namespace conclave
