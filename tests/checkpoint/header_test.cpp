#include "checkpoint/header.h"

#include "checkpoint/dtype.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

std::string file_of(const std::string& header, size_t data_bytes, int64_t length = -1) {
  const uint64_t field = length < 0 ? header.size() : static_cast<uint64_t>(length);
  return std::string(reinterpret_cast<const char*>(&field), 8) + header +
         std::string(data_bytes, 'x');
}

std::string entry(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

TEST(Header, ReadsWhatTheFormatAllows) {
  const auto text = R"({"b":)" + entry("F32", "[2,1]", "[4,12]") +
                    R"(,"__metadata__":{"k":"v"},"a":)" + entry("BF16", "[2]", "[0,4]") +
                    R"(,"empty":)" + entry("I64", "[3,0]", "[4,4]") + R"(,"é":)" +
                    entry("U8", "[]", "[12,13]") + "}   ";
  const Header header = parse_header(file_of(text, 13), "f");
  ASSERT_EQ(header.tensors.size(), 4u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[1].name, "empty");
  EXPECT_EQ(header.tensors[2].name, "b");
  EXPECT_EQ(header.tensors[3].name, "é");
  EXPECT_EQ(header.tensors[0].begin, static_cast<int64_t>(8 + text.size()));
  EXPECT_EQ(header.tensors[2].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(header.metadata, (Metadata{{"k", "v"}}));
  EXPECT_TRUE(parse_header(file_of("{}", 0), "f").tensors.empty());
}

TEST(Header, RefusesHostileText) {
  const std::string huge = "[4611686018427387904,4611686018427387904]";
  const struct {
    std::string header;
    size_t data;
    const char* says;
  } cases[] = {
      {"", 0, "does not begin with {"},
      {"[]", 0, "does not begin with {"},
      {" {}", 0, "does not begin with {"},
      {"{", 0, "header"},
      {"{}}", 0, "header"},
      {"{\"a\xff\":1}", 0, "header"},
      {R"({"a":)" + std::string(200'000, '['), 0, "header"},
      {R"({"a":1})", 0, "`a`: expected {"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "`a`: expected {"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, "`a`: expected {"},
      {R"({"a":)" + entry("F4", "[1]", "[0,4]") + "}", 4, "got F4"},
      {R"({"a":)" + entry("F32", "[-1]", "[0,4]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", "[1.0]", "[0,4]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", "[\"1\"]", "[0,4]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", "[18446744073709551615]", "[0,4]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", "[99999999999999999999999]", "[0,4]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", huge, "[0,0]") + "}", 0, "more than 2^63 - 1 bytes"},
      {R"({"a":)" + entry("F32", "[0," + huge.substr(1), "[0,0]") + "}", 0,
       "more than 2^63 - 1 bytes"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4,8]") + "}", 8, "`a`: expected {"},
      {R"({"a":)" + entry("F32", "[1]", "[-4,0]") + "}", 4, "whole numbers"},
      {R"({"a":)" + entry("F32", "[1]", "[4,0]") + "}", 4, "data_offsets are [4, 0]"},
      {R"({"a":)" + entry("F32", "[2]", "[0,4]") + "}", 4, "have 8 bytes"},
      {R"({"a":)" + entry("F32", "[1]", "[4,8]") + "}", 8, "after a hole"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4]") + R"(,"b":)" + entry("F32", "[1]", "[2,6]") + "}",
       6, "inside another"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4]") + R"(,"b":)" + entry("F32", "[1]", "[0,4]") + "}",
       4, "inside another"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4]") + R"(,"a":)" + entry("F32", "[1]", "[4,8]") + "}",
       8, "a"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4]") + "}", 3, "cut off"},
      {R"({"a":)" + entry("F32", "[1]", "[0,4]") + "}", 5, "the file has 5 of data"},
      {"{}", 1, "the file has 1 of data"},
      {R"({"__metadata__":[]})", 0, "__metadata__"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.header.substr(0, 100));
    const std::string message =
        message_of([&] { parse_header(file_of(c.header, c.data), "dir/f.safetensors"); });
    EXPECT_CONTAINS(message, c.says);
    EXPECT_EQ(message.rfind("dir/f.safetensors", 0), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), 500u);
  }
}

TEST(Header, RefusesLengthsThatDoNotFit) {
  EXPECT_CONTAINS(message_of([] { parse_header("", "f"); }), "0 bytes");
  EXPECT_CONTAINS(message_of([] { parse_header("1234567", "f"); }), "7 bytes");
  EXPECT_CONTAINS(message_of([] { parse_header(file_of("{}", 0, 3), "f"); }),
                  "its header has 3 bytes");
  EXPECT_CONTAINS(message_of([] { parse_header(file_of("{}", 0, 100'000'001), "f"); }),
                  "at most 100000000");
  EXPECT_CONTAINS(message_of([] { parse_header(file_of("{}", 0, int64_t{1} << 62), "f"); }),
                  "at most 100000000");
  EXPECT_CONTAINS(message_of([] { parse_header(std::string(16, '\xff'), "f"); }),
                  "at most 100000000");
}

// A file cut at any byte, or with any one byte of its header changed, is an error or still a whole
// file; nothing else happens.
TEST(Header, SurvivesEveryCutAndEveryFlip) {
  const std::vector<NamedTensor> tensors = {{"a.weight", patterned({3, 2}, at::kFloat, 1)},
                                            {"b", patterned({5}, at::kBFloat16, 2)}};
  std::vector<const NamedTensor*> order;
  std::string file = make_header(tensors, {{"format", "pt"}}, order);
  const size_t header = file.size();
  for (const NamedTensor* tensor : order) file += bytes_of(tensor->data);
  EXPECT_EQ(parse_header(file, "f").tensors.size(), 2u);
  for (size_t cut = 0; cut < file.size(); ++cut)
    EXPECT_THROW(parse_header(std::string_view(file).substr(0, cut), "f"), RunError) << cut;
  for (size_t at = 0; at < header; ++at)
    for (int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      try {
        for (const TensorInfo& tensor : parse_header(changed, "f").tensors)
          EXPECT_TRUE(tensor.begin >= 0 && tensor.end <= static_cast<int64_t>(file.size()));
      } catch (const RunError&) {
      }
    }
}

TEST(Header, ContractsOfWriting) {
  std::vector<const NamedTensor*> order;
  const auto write = [&](std::vector<NamedTensor> tensors) { make_header(tensors, {}, order); };
  const at::Tensor x = patterned({2, 3}, at::kFloat, 0);
  EXPECT_THROW(write({{"a", x}, {"a", x}}), c10::Error);
  EXPECT_THROW(write({{"__metadata__", x}}), c10::Error);
  EXPECT_THROW(write({{"a", at::Tensor()}}), c10::Error);
  EXPECT_THROW(write({{"a", at::empty({1}, at::kComplexDouble)}}), c10::Error);
}

TEST(Dtype, NamesGoBothWays) {
  for (const char* name :
       {"BF16", "F16", "F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"})
    EXPECT_EQ(dtype_name(dtype_from_name(name).value()), name);
  EXPECT_FALSE(dtype_from_name("f32"));
  EXPECT_FALSE(dtype_from_name(""));
}

}  // namespace
}  // namespace conclave::checkpoint
