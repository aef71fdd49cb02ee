#include "base/hash.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace conclave {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

// XXH3_64bits with seed 0, the same on every machine: files written elsewhere must check out here.
TEST(Xxh3, KnownAnswers) {
  EXPECT_EQ(xxh3({}), 0x2d06800538d394c2u);
  EXPECT_EQ(hash_hex(xxh3(bytes("abc"))), "78af5f94892f3950");
  EXPECT_EQ(hash_hex(0x1f), "000000000000001f");
}

TEST(Hasher, PartsHashAsTheWhole) {
  std::vector<unsigned char> data(5000);
  std::iota(data.begin(), data.end(), static_cast<unsigned char>(0));
  auto all = std::as_bytes(std::span(data));
  for (size_t cut : {0, 1, 240, 241, 1024, 4999, 5000}) {
    Hasher hasher;
    hasher.update(all.first(cut));
    EXPECT_EQ(hasher.digest(), xxh3(all.first(cut)));
    hasher.update(all.subspan(cut));
    EXPECT_EQ(hasher.digest(), xxh3(all)) << cut;
    EXPECT_EQ(hasher.hex(), hash_hex(xxh3(all)));
  }
}

}  // namespace
}  // namespace conclave
