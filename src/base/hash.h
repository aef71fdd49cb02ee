// XXH3, 64 bits, seed 0: checksums against damage, not against intent. About as fast as memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace conclave {

uint64_t xxh3(std::span<const std::byte> bytes);

// The same hash of bytes that come in parts.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  void update(std::span<const std::byte> bytes);
  uint64_t digest() const;  // of all so far; more may follow
  std::string hex() const;  // 16 lower-case digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hash_hex(uint64_t hash);  // 16 lower-case digits

}  // namespace conclave
