#include "base/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/temp_folder.h"

namespace conclave {
namespace {

std::string parse_error(const std::string& text) {
  return CONCLAVE_MESSAGE_OF(RunError, parse_json(text, "a.json"));
}

TEST(Json, ReadsWhatTheLibraryReads) {
  const std::string text =
      R"({"a": [1, -2, 2.5, true, null, "x\u00e9", []], "b": {"c": {}, "d": [[1], [2, 3]]}, "e": 18446744073709551615})";
  EXPECT_EQ(parse_json(text, "a.json"), nlohmann::json::parse(text));
  EXPECT_EQ(parse_json("3", "a.json"), 3);
}

TEST(Json, BrokenTextIsAnErrorWithAPosition) {
  EXPECT_EQ(parse_error("{\n \"a\": tru }").rfind("a.json:2:10: not JSON: syntax error", 0), 0u)
      << parse_error("{\n \"a\": tru }");
  for (const char* text :
       {"", "{", "[1,]", "{} {}", "NaN", "[1e999]", "\"\xff\"", "\"\n\"", "{\"a\" 1}", "01"}) {
    std::string message = parse_error(text);
    EXPECT_EQ(message.rfind("a.json:1:", 0), 0u) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST(Json, HostileInputIsBounded) {
  EXPECT_EQ(parse_error(std::string(1 << 20, '[')), "a.json: nested deeper than 256");
  std::string nested = std::string(256, '[') + std::string(256, ']');
  EXPECT_EQ(parse_json(nested, "a.json").size(), 1u);
  EXPECT_EQ(parse_error(R"({"a": 1, "b": {"a": 1, "a": 2}})"),
            "a.json: the name \"a\" stands twice in one object");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, parse_json("[1, 2]", "a.json", {.bytes = 5})),
            "a.json: expected at most 5 bytes of JSON, got 6");
}

TEST(Json, ReadsFiles) {
  TempFolder folder;
  EXPECT_EQ(read_json(folder.write("a.json", "[1]"))[0], 1);
  std::string file = folder.write("b.json", "[1");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, read_json(file)).rfind(file + ":1:", 0), 0u);
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, read_json(file, {.bytes = 1})),
            file + ": expected at most 1 bytes, got 2");
}

TEST(Json, TypedGetNamesFileAndKey) {
  nlohmann::json j = parse_json(
      R"({"n": 3, "x": 2.5, "t": "hi", "b": true, "l": [1, 2], "m": ["a"], "z": null, "o": {}, "big": 9223372036854775808})",
      "a.json");
  EXPECT_EQ(get<int64_t>(j, "n", "a.json"), 3);
  EXPECT_EQ(get<double>(j, "n", "a.json"), 3.0);
  EXPECT_EQ(get<double>(j, "x", "a.json"), 2.5);
  EXPECT_EQ(get<std::string>(j, "t", "a.json"), "hi");
  EXPECT_TRUE(get<bool>(j, "b", "a.json"));
  EXPECT_EQ(get<std::vector<int64_t>>(j, "l", "a.json"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(get<std::vector<double>>(j, "l", "a.json"), (std::vector<double>{1, 2}));
  EXPECT_EQ(get<std::vector<std::string>>(j, "m", "a.json"), (std::vector<std::string>{"a"}));
  EXPECT_EQ(get_or<int64_t>(j, "none", "a.json", 7), 7);
  EXPECT_EQ(get_or<int64_t>(j, "z", "a.json", 7), 7);
  EXPECT_EQ(get_or<int64_t>(j, "n", "a.json", 7), 3);
  auto message = [&](auto type, const char* key) {
    return CONCLAVE_MESSAGE_OF(RunError, get<decltype(type)>(j, key, "a.json"));
  };
  EXPECT_EQ(message(int64_t{}, "x"), "a.json: `x`: expected a whole number, got 2.5");
  EXPECT_EQ(message(int64_t{}, "big"),
            "a.json: `big`: expected a whole number, got 9223372036854775808");
  EXPECT_EQ(message(int64_t{}, "b"), "a.json: `b`: expected a whole number, got true");
  EXPECT_EQ(message(std::string{}, "z"), "a.json: `z`: expected text, got null");
  EXPECT_EQ(message(std::vector<int64_t>{}, "m"),
            "a.json: `m`: expected a list of whole numbers, got a list of 1");
  EXPECT_EQ(message(double{}, "none"), "a.json: `none` is missing; expected a number");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, get_or<bool>(j, "t", "a.json", true)),
            "a.json: `t`: expected true or false, got \"hi\"");
  EXPECT_EQ(CONCLAVE_MESSAGE_OF(RunError, get<bool>(nlohmann::json(3), "t", "a.json")),
            "a.json: expected an object with `t`, got 3");
}

}  // namespace
}  // namespace conclave
