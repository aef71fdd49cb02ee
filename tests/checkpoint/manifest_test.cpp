#include "checkpoint/manifest.h"

#include "base/hash.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

TEST(ManifestFile, FindsWhatIsDamaged) {
  TempFolder dir;
  const std::string text = "some text";
  write_text(dir / "a", text);
  write_text(dir / "b", "");
  EXPECT_CONTAINS(find_damage(dir.path(), Verify::sizes), "manifest.json: not there");
  write_manifest(dir.path(),
                 {{"a", {9, xxh3(std::as_bytes(std::span(text)))}}, {"b", {0, xxh3({})}}});
  EXPECT_EQ(find_damage(dir.path(), Verify::checksums), "");

  write_text(dir / "a", "some TEXT");
  EXPECT_EQ(find_damage(dir.path(), Verify::sizes), "");
  EXPECT_CONTAINS(find_damage(dir.path(), Verify::checksums), "a: expected checksum ");
  write_text(dir / "a", "some");
  EXPECT_EQ(find_damage(dir.path(), Verify::sizes), "a: expected 9 bytes, found 4");
  std::filesystem::remove(dir / "a");
  EXPECT_EQ(find_damage(dir.path(), Verify::sizes), "a: not there");
}

TEST(ManifestFile, MayBeDamagedItself) {
  TempFolder dir;
  write_text(dir / "a", "1");
  for (const char* text :
       {"", "{", "[]", "{}", R"({"format": 2, "files": {}})", R"({"format": 1})",
        R"({"format": 1, "files": []})", R"({"format": 1, "files": {"a": {}}})",
        R"({"format": 1, "files": {"a": {"bytes": "1"}}})",
        R"({"format": 1, "files": {"a": {"bytes": 1}}})", R"({"format": 1, "files": {"a": 1}})"}) {
    write_text(dir / "manifest.json", text);
    EXPECT_FALSE(find_damage(dir.path(), Verify::checksums).empty()) << text;
  }
  write_text(dir / "manifest.json", R"({"format": 1, "files": {"a": {"bytes": 1}}})");
  EXPECT_EQ(find_damage(dir.path(), Verify::sizes), "");
}

}  // namespace
}  // namespace conclave::checkpoint
