#include "models/rope.h"

#include <cmath>
#include <set>

namespace conclave::models {
namespace {

// A number above 0, or `otherwise` where it is absent.
double positive(const Keys& k, const std::string& key, double otherwise) {
  const double x = k.number({key}, otherwise);
  if (k.find({key}) && !(x > 0 && std::isfinite(x)))
    k.refuse(key, "expected a number above 0, got " + k.find({key})->dump());
  return x;
}

double required(const Keys& k, const std::string& key) {
  if (!k.find({key})) k.refuse(key, "missing; rope_type yarn needs it");
  return positive(k, key, 0);
}

// transformers looks beside the table first, and takes max_position_embeddings where neither is.
double original_positions(const Keys& k, const std::string& table) {
  const std::string name = "original_max_position_embeddings";
  for (const std::string& key : {name, table + name, std::string("max_position_embeddings")})
    if (k.find({key})) return required(k, key);
  return required(k, table + name);
}

void read_yarn(const Keys& k, const std::string& table, ops::RopeConfig& c) {
  c.yarn = true;
  c.factor = required(k, table + "factor");
  if (c.factor < 1) k.refuse(table + "factor", "expected a number of at least 1");
  if (!(c.theta > 1)) k.refuse("rope_theta", "expected a number above 1 for rope_type yarn");
  c.original_positions = original_positions(k, table);
  c.beta_fast = positive(k, table + "beta_fast", c.beta_fast);
  c.beta_slow = positive(k, table + "beta_slow", c.beta_slow);
  if (c.beta_fast < c.beta_slow)
    k.refuse(table + "beta_fast", "expected at least beta_slow = " + std::to_string(c.beta_slow));
  c.truncate = k.flag(table + "truncate", c.truncate);
  c.attention_factor = positive(k, table + "attention_factor", 0);
  c.mscale = k.number({table + "mscale"}, 0);
  c.mscale_all_dim = k.number({table + "mscale_all_dim"}, 0);
  if (c.mscale < 0) k.refuse(table + "mscale", "expected a number of at least 0");
  if (c.mscale_all_dim < 0) k.refuse(table + "mscale_all_dim", "expected a number of at least 0");
}

void refuse_others(const Keys& k, const std::string& table, const nlohmann::json& content,
                   const std::string& type) {
  std::set<std::string> known{"rope_type", "type", "rope_theta", "partial_rotary_factor"};
  if (type == "yarn")
    known.insert({"factor", "original_max_position_embeddings", "beta_fast", "beta_slow",
                  "truncate", "attention_factor", "mscale", "mscale_all_dim"});
  for (const auto& [key, value] : content.items())
    if (!known.count(key)) k.refuse(table + key, "unknown or without effect for rope_type " + type);
}

}  // namespace

ops::RopeConfig read_rope(const Keys& k, const ops::RopeConfig& otherwise) {
  const auto *ours = k.find({"rope_parameters"}), *published = k.find({"rope_scaling"});
  if (ours && published && !published->empty())
    k.refuse("rope_scaling", "expected it or `rope_parameters`, got both; take one of them out");
  const auto* content = ours ? ours : published;
  const std::string name = ours ? "rope_parameters" : "rope_scaling", table = name + ".";
  if (content && !content->is_object())
    k.refuse(name, "expected a table of keys, got " + content->dump());
  ops::RopeConfig c;
  if (!content) c = otherwise;
  c.theta = otherwise.theta;
  for (const std::string& key : {std::string("rope_theta"), table + "rope_theta"})
    c.theta = positive(k, key, c.theta);
  for (const std::string& key :
       {std::string("partial_rotary_factor"), table + "partial_rotary_factor"})
    if (k.number({key}, 1) != 1)
      k.refuse(key, "expected 1; heads that turn in part are not supported");
  if (!content) return c;
  const std::string type = k.text({table + "rope_type", table + "type"}, "default");
  if (type != "default" && type != "yarn")
    k.refuse(k.find({table + "rope_type"}) ? table + "rope_type" : table + "type",
             "expected default or yarn, got \"" + type + "\"; others are not supported");
  refuse_others(k, table, *content, type);
  if (type == "yarn") read_yarn(k, table, c);
  return c;
}

ops::RopeConfig read_rope(const Keys& k, double default_theta) {
  return read_rope(k, ops::RopeConfig{.theta = default_theta});
}

double attention_scale(const ops::RopeConfig& rope, int64_t head_dim) {
  const double mscale = rope.yarn ? ops::yarn_mscale(rope.factor, rope.mscale_all_dim) : 1;
  return mscale * mscale / std::sqrt(double(head_dim));
}

}  // namespace conclave::models
