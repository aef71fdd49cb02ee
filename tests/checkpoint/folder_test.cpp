#include "checkpoint/folder.h"

#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    write_text(dir / "config.json", "{\"a\": 1}\n");
    const std::vector<NamedTensor> first = {{"a", patterned({2, 3}, at::kFloat, 1)}},
                                   second = {{"b", patterned({4}, at::kBFloat16, 2)}};
    write_safetensors(dir / "model-00001-of-00002.safetensors", first);
    write_safetensors(dir / "model-00002-of-00002.safetensors", second);
  }
  void index(const std::string& weight_map) {
    write_text(dir / "model.safetensors.index.json",
               "{\"metadata\": {\"total_size\": 32}, \"weight_map\": " + weight_map + "}");
  }
  std::string error() {
    return message_of([&] { HfFolder folder(dir.path()); });
  }
  TempFolder dir;
};

constexpr const char* kA = R"("a": "model-00001-of-00002.safetensors")";
constexpr const char* kB = R"("b": "model-00002-of-00002.safetensors")";

std::string map_of(const std::string& a, const std::string& b) { return "{" + a + ", " + b + "}"; }

TEST_F(Folder, OpensShards) {
  index(map_of(kA, kB));
  const HfFolder folder(dir.path());
  EXPECT_EQ(folder.config_json(), "{\"a\": 1}\n");
  ASSERT_EQ(folder.tensors().size(), 2u);
  EXPECT_EQ(folder.tensors().at("b").tensor->shape, std::vector<int64_t>{4});
  expect_same(folder.tensors().at("a").file->view("a"), patterned({2, 3}, at::kFloat, 1));
  EXPECT_EQ(folder.tensor_bytes(), 32);
}

TEST_F(Folder, OneFileGoesBeforeAnIndex) {
  index("not even JSON");
  write_safetensors(dir / "model.safetensors",
                    std::vector<NamedTensor>{{"c", patterned({1}, at::kFloat, 1)}});
  const HfFolder folder(dir.path());
  EXPECT_EQ(folder.tensors().size(), 1u);
  EXPECT_EQ(folder.files().size(), 1u);
}

TEST_F(Folder, IndexAndShardsMustSayTheSame) {
  index("{" + std::string(kA) + "}");
  EXPECT_EQ(HfFolder(dir.path()).tensors().size(),
            1u);  // a file nobody names is not part of the model
  index(map_of(kA, R"("b": "model-00001-of-00002.safetensors")"));
  EXPECT_CONTAINS(error(),
                  "lists tensor `b` in model-00001-of-00002.safetensors, which does not have it");
  index(map_of(kA, kB + std::string(R"(, "c": "model-00002-of-00002.safetensors")")));
  EXPECT_CONTAINS(error(), "lists tensor `c`");
  index(map_of(kA, kB + std::string(R"(, "c": "model-00003-of-00002.safetensors")")));
  EXPECT_CONTAINS(error(),
                  "names the shard model-00003-of-00002.safetensors, which is not in the folder");

  index(map_of(kA, kB));
  const std::vector<NamedTensor> more = {{"b", patterned({4}, at::kBFloat16, 2)},
                                         {"d", patterned({1}, at::kFloat, 3)}};
  write_safetensors(dir / "model-00002-of-00002.safetensors", more);
  EXPECT_CONTAINS(error(), "tensor `d` of model-00002-of-00002.safetensors is not listed");
  const std::vector<NamedTensor> twice = {{"a", patterned({4}, at::kBFloat16, 2)},
                                          {"b", patterned({1}, at::kFloat, 3)}};
  write_safetensors(dir / "model-00002-of-00002.safetensors", twice);
  EXPECT_CONTAINS(error(), "`a` is in two shards");
  index(map_of(R"("a": "model-00002-of-00002.safetensors")", kB));
  EXPECT_EQ(HfFolder(dir.path()).tensors().size(), 2u);  // the first shard is no longer named
  write_text(dir / "model-00002-of-00002.safetensors", "cut");
  EXPECT_CONTAINS(error(), "model-00002-of-00002.safetensors: not a whole safetensors file");
}

TEST_F(Folder, ShardNamesStayInTheFolder) {
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden",
                           "", "a\\\\b", "a\\u0000b"}) {
    index(std::string(R"({"a": ")") + name + "\"}");
    EXPECT_CONTAINS(error(), "expected the plain name of a file in this folder");
  }
}

TEST_F(Folder, IndexOfAnotherForm) {
  for (const char* text : {"[]", "{}", R"({"weight_map": []})", R"({"weight_map": {"a": 1}})", "{",
                           R"({"weight_map": {"a": "x", "a": "x"}})"}) {
    write_text(dir / "model.safetensors.index.json", text);
    EXPECT_CONTAINS(error(), "model.safetensors.index.json");
  }
}

TEST_F(Folder, SaysWhatIsNotThere) {
  EXPECT_CONTAINS(error(), "expected model.safetensors or model.safetensors.index.json");
  write_text(dir / "pytorch_model.bin", "");
  EXPECT_CONTAINS(error(), "only pytorch_model.bin");
  std::filesystem::remove(dir / "config.json");
  EXPECT_CONTAINS(error(), "expected config.json");
  EXPECT_CONTAINS(message_of([&] { HfFolder f(dir / "absent"); }), "expected a model folder");
  EXPECT_CONTAINS(message_of([&] { HfFolder f(dir / "pytorch_model.bin"); }),
                  "expected a model folder");
  EXPECT_THROW(HfFolder(dir / "pytorch_model.bin/x"), RunError);
}

}  // namespace
}  // namespace conclave::checkpoint
