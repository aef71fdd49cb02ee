// The two visitors that only read: the dump and the list of keys.
#include <algorithm>

#include "base/config.h"
#include "base/config_slot.h"

namespace conclave {
namespace {

class Dumper : public Fields {
 public:
  std::string text;

 private:
  void leaf(const char* key, Slot slot, const char*, const Check&) override {
    text += std::string(indent_, ' ') + key + ": " + slot_value(slot) + '\n';
  }
  bool enter(const char* key, const char*) override {
    text += std::string(indent_, ' ') + key + ":\n";
    indent_ += 2;
    return true;
  }
  void leave() override { indent_ -= 2; }

  size_t indent_ = 0;
};

class Lister : public Fields {
 public:
  std::vector<ConfigKey> keys;

 private:
  void leaf(const char* key, Slot slot, const char* help, const Check& check) override {
    keys.push_back({prefix_ + key, slot_type(slot), slot_value(slot), help, check_range(check)});
  }
  bool enter(const char* key, const char* help) override {
    keys.push_back({prefix_ + key, "", "", help, ""});
    prefix_ += std::string(key) + '.';
    return true;
  }
  void leave() override {
    prefix_.pop_back();
    size_t dot = prefix_.rfind('.');
    prefix_.resize(dot == std::string::npos ? 0 : dot + 1);
  }

  std::string prefix_;  // "optimizer." inside optimizer
};

}  // namespace

std::string dump_config_of(Visitable& config) {
  Dumper dumper;
  config.visit(dumper);
  return dumper.text;
}

std::vector<ConfigKey> config_keys_of(Visitable& config) {
  Lister lister;
  config.visit(lister);
  return lister.keys;
}

std::string list_keys_of(Visitable& config) {
  std::vector<ConfigKey> keys = config_keys_of(config);
  size_t path_width = 0, type_width = 0, value_width = 0;
  for (const ConfigKey& key : keys) {
    path_width = std::max(path_width, key.path.size());
    type_width = std::max(type_width, key.type.size());
    value_width = std::max(value_width, key.value.size());
  }
  auto padded = [](const std::string& text, size_t width) {
    return text + std::string(width - text.size() + 2, ' ');
  };
  std::string out;
  for (const ConfigKey& key : keys) {
    out += padded(key.path, path_width) + padded(key.type, type_width) +
           padded(key.value, value_width) + key.help;
    out += key.range.empty() ? "\n" : " (" + key.range + ")\n";
  }
  return out;
}

}  // namespace conclave
