#include "models/rope.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave::models {
namespace {

using nlohmann::json;

ops::RopeConfig read(const json& config, const ops::RopeConfig& otherwise = {.theta = 500}) {
  return read_rope(Keys(config, "some/config.json"), otherwise);
}

void expect_same(const ops::RopeConfig& a, const ops::RopeConfig& b) {
  EXPECT_EQ(a.theta, b.theta);
  EXPECT_EQ(a.yarn, b.yarn);
  EXPECT_EQ(a.factor, b.factor);
  EXPECT_EQ(a.original_positions, b.original_positions);
  EXPECT_EQ(a.beta_fast, b.beta_fast);
  EXPECT_EQ(a.beta_slow, b.beta_slow);
  EXPECT_EQ(a.truncate, b.truncate);
  EXPECT_EQ(a.attention_factor, b.attention_factor);
  EXPECT_EQ(a.mscale, b.mscale);
  EXPECT_EQ(a.mscale_all_dim, b.mscale_all_dim);
}

void expect_refused(const json& config, const std::vector<std::string>& parts) {
  try {
    read(config);
    ADD_FAILURE() << "expected a ConfigError with: " << parts.front();
  } catch (const ConfigError& e) {
    for (const auto& part : parts)
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

// As DeepSeek-V3 publishes it, and as transformers 5 writes the same.
const json kDeepseek = {{"beta_fast", 32},       {"beta_slow", 1},
                        {"factor", 40},          {"mscale", 1.0},
                        {"mscale_all_dim", 1.0}, {"original_max_position_embeddings", 4096},
                        {"type", "yarn"}};
const ops::RopeConfig kDeepseekConfig{.theta = 1e4,
                                      .yarn = true,
                                      .factor = 40,
                                      .original_positions = 4096,
                                      .mscale = 1,
                                      .mscale_all_dim = 1};

json with(json table, const std::string& key, const json& value) {
  table[key] = value;
  return table;
}

TEST(Rope, BothSpellings) {
  expect_same(read({{"rope_theta", 10000}, {"rope_scaling", kDeepseek}}), kDeepseekConfig);
  json written = with(with(kDeepseek, "rope_theta", 1e4), "rope_type", "yarn");
  expect_same(read({{"rope_parameters", written}}), kDeepseekConfig);
  written.erase("type");
  expect_same(read({{"rope_parameters", written}, {"rope_scaling", nullptr}}), kDeepseekConfig);
  expect_same(read({{"rope_theta", 1e6}, {"rope_scaling", nullptr}}), {.theta = 1e6});
  expect_same(read({{"rope_parameters", {{"rope_theta", 1e6}, {"rope_type", "default"}}}}),
              {.theta = 1e6});
  // The table's base is the nearer one.
  expect_same(read({{"rope_theta", 7}, {"rope_parameters", {{"rope_theta", 8}}}}), {.theta = 8});
}

TEST(Rope, GptOss) {
  const json table = {{"beta_fast", 32.0},   {"beta_slow", 1.0},
                      {"factor", 32.0},      {"original_max_position_embeddings", 4096},
                      {"rope_type", "yarn"}, {"truncate", false}};
  const ops::RopeConfig want{
      .theta = 1.5e5, .yarn = true, .factor = 32, .original_positions = 4096, .truncate = false};
  expect_same(read({{"rope_theta", 150000}, {"rope_scaling", table}}), want);
  // transformers takes this where config.json says nothing.
  expect_same(read(json::object(), want), want);
  expect_same(
      read({{"rope_theta", 3}}, want),
      {.theta = 3, .yarn = true, .factor = 32, .original_positions = 4096, .truncate = false});
  expect_same(read({{"rope_scaling", {{"rope_type", "default"}}}}, want), {.theta = 1.5e5});
}

TEST(Rope, WhatTransformersFillsIn) {
  const json short_table = {{"type", "yarn"}, {"factor", 4}};
  expect_same(read({{"rope_scaling", short_table}, {"max_position_embeddings", 64}}),
              {.theta = 500, .yarn = true, .factor = 4, .original_positions = 64});
  expect_same(read({{"rope_scaling", with(short_table, "original_max_position_embeddings", 8)},
                    {"original_max_position_embeddings", 16},
                    {"max_position_embeddings", 64}}),
              {.theta = 500, .yarn = true, .factor = 4, .original_positions = 16});
  expect_same(read_rope(Keys(json::object(), "c"), 10000), {.theta = 10000});
}

TEST(Rope, RefusesWhatItCannotUse) {
  auto table = [](const std::string& key, const json& value) {
    return json{{"rope_scaling", with(kDeepseek, key, value)}};
  };
  for (const char* type : {"linear", "dynamic", "longrope", "llama3"})
    expect_refused({{"rope_parameters", {{"rope_type", type}, {"factor", 2}}}},
                   {"some/config.json: `rope_parameters.rope_type`", "default or yarn", type});
  expect_refused({{"rope_scaling", "yarn"}}, {"`rope_scaling`", "a table of keys"});
  expect_refused({{"rope_scaling", kDeepseek}, {"rope_parameters", {{"rope_theta", 1.0}}}},
                 {"`rope_scaling`", "got both"});
  expect_refused({{"rope_theta", 0}}, {"`rope_theta`", "above 0, got 0"});
  expect_refused({{"rope_theta", "big"}}, {"`rope_theta`", "a number"});
  expect_refused({{"rope_parameters", {{"rope_theta", -1}}}},
                 {"`rope_parameters.rope_theta`", "above 0"});
  expect_refused({{"rope_scaling", {{"type", "yarn"}, {"original_max_position_embeddings", 8}}}},
                 {"`rope_scaling.factor`", "missing"});
  expect_refused({{"rope_scaling", {{"type", "yarn"}, {"factor", 2}}}},
                 {"`rope_scaling.original_max_position_embeddings`", "missing"});
  expect_refused(table("factor", 0.5), {"`rope_scaling.factor`", "at least 1"});
  expect_refused(table("beta_fast", 0.5), {"`rope_scaling.beta_fast`", "at least beta_slow"});
  expect_refused(table("beta_slow", 0), {"`rope_scaling.beta_slow`", "above 0"});
  expect_refused(table("truncate", 1), {"`rope_scaling.truncate`", "true or false"});
  expect_refused(table("attention_factor", -1), {"`rope_scaling.attention_factor`"});
  expect_refused(table("mscale", -1), {"`rope_scaling.mscale`"});
  expect_refused(table("rope_theta", 1.0), {"`rope_theta`", "above 1"});
  expect_refused(table("partial_rotary_factor", 0.5),
                 {"`rope_scaling.partial_rotary_factor`", "expected 1"});
  expect_refused(table("beta_fats", 3),
                 {"`rope_scaling.beta_fats`", "unknown or without effect for rope_type yarn"});
  expect_refused({{"rope_scaling", {{"rope_type", "default"}, {"factor", 2}}}},
                 {"`rope_scaling.factor`", "rope_type default"});
}

}  // namespace
}  // namespace conclave::models
