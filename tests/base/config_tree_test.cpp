#include "base/config_tree.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/config.h"
#include "base/temp_folder.h"

namespace conclave {
namespace {

struct Model {
  ConfigTree config;
  int64_t seed = 0;
  void fields(auto& f) {
    f("config", config, "keys of the model");
    f("seed", seed, "random");
  }
};

Config<Model> read(const std::string& yaml, const std::vector<std::string>& sets = {}) {
  TempFolder folder;
  return read_config<Model>(folder.write("m.yaml", yaml), sets, "pretrain");
}

const char* const kYaml = R"(config:
  hidden_size: 64
  rope_theta: 1e6
  tie: true
  name: a, b
  quoted: "12"
  layers: [1, {x: -2.5}]
  none: null
  word: inf
)";

TEST(ConfigTree, IsJsonOfWhatThePlainTextMeans) {
  EXPECT_EQ(tree_json(read(kYaml).value.config), nlohmann::json::parse(R"({
    "hidden_size": 64, "rope_theta": 1e6, "tie": true, "name": "a, b", "quoted": "12",
    "layers": [1, {"x": -2.5}], "none": null, "word": "inf"})"));
  EXPECT_TRUE(tree_json(read("seed: 1").value.config).is_null());
}

TEST(ConfigTree, SetsReplaceKeyByKey) {
  Config<Model> c = read("config: {a: 1, b: 2}", {"config.b=3", "config.c=x"});
  EXPECT_EQ(tree_json(c.value.config), nlohmann::json::parse(R"({"a": 1, "b": 3, "c": "x"})"));
  auto places = tree_locations(c.value.config);
  EXPECT_EQ(places.at("b"), "--set config.b=3");
  EXPECT_NE(places.at("a").find("m.yaml:1:10"), std::string::npos) << places.at("a");
}

TEST(ConfigTree, TheDumpReadsBackToTheSameValues) {
  for (std::string yaml : {kYaml, "seed: 1", "config: {}"}) {
    Config<Model> c = read(yaml);
    Config<Model> again = read(dump_config(c.value));
    EXPECT_EQ(tree_json(again.value.config), tree_json(c.value.config)) << dump_config(c.value);
  }
}

TEST(ConfigTree, OnlyAMappingWillDo) {
  EXPECT_THROW(read("config: 3"), ConfigError);
  EXPECT_THROW(read("config: [a]"), ConfigError);
}

}  // namespace
}  // namespace conclave
