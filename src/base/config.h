// Strict YAML configs. A config is a struct with its defaults in place and one member template that
// names each key once:
//
//   struct AdamWConfig {
//     double lr = 3e-4, beta1 = 0.9, beta2 = 0.95;
//     std::string schedule = "cosine";
//     void fields(auto& f) {
//       f("lr", lr, "peak learning rate", positive);
//       f("betas", beta1, beta2, "decay of the two moments", in(0, 1));
//       f("schedule", schedule, "shape of the decay", one_of({"cosine", "wsd", "constant"}));
//     }
//   };
//
// Reading, the dump of the effective config and the list of keys all run this one function, with a
// `Fields` of theirs. A member is bool, int64_t, double, std::string, a std::optional of one of
// these (null: not given), a std::vector of int64_t or std::string, a struct with fields() of its
// own, or a ConfigTree, whose keys are not checked here. `fields` must name the same keys whatever
// the values are.
#pragma once
#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/config_tree.h"
#include "base/error.h"

namespace conclave {

// What a value must satisfy; of a list each element, of an optional only a value that is there.
struct Check {
  enum class Kind { none, positive, not_negative, half_open, closed, at_least, one_of };
  Kind kind = Kind::none;
  double lo = 0, hi = 0;
  std::vector<std::string> names;
};
inline const Check positive{Check::Kind::positive, 0, 0, {}};          // x > 0
inline const Check not_negative{Check::Kind::not_negative, 0, 0, {}};  // x ≥ 0
// lo ≤ x < hi
inline Check in(double lo, double hi) { return {Check::Kind::half_open, lo, hi, {}}; }
// lo ≤ x ≤ hi
inline Check within(double lo, double hi) { return {Check::Kind::closed, lo, hi, {}}; }
inline Check at_least(double lo) { return {Check::Kind::at_least, lo, 0, {}}; }  // lo ≤ x
inline Check one_of(std::vector<std::string> names) {
  return {Check::Kind::one_of, 0, 0, std::move(names)};
}

// Where a value lives. The pair is two doubles under one key, written as a list of two.
using Slot = std::variant<bool*, int64_t*, double*, std::string*, std::optional<bool>*,
                          std::optional<int64_t>*, std::optional<double>*,
                          std::optional<std::string>*, std::vector<int64_t>*,
                          std::vector<std::string>*, std::pair<double*, double*>, ConfigTree*>;

// The one visitor type, so that fields() is compiled once a struct.
class Fields {
 public:
  virtual ~Fields() = default;

  template <class T>
  void operator()(const char* key, T& member, const char* help, const Check& check = {}) {
    if constexpr (requires { member.fields(*this); }) {
      if (enter(key, help)) {
        member.fields(*this);
        leave();
      }
    } else {
      static_assert(
          std::constructible_from<Slot, T*>,
          "a config member is bool, int64_t, double, std::string, a std::optional of "
          "these, a std::vector of int64_t or std::string, a ConfigTree, or has fields()");
      leaf(key, Slot(&member), help, check);
    }
  }
  void operator()(const char* key, double& first, double& second, const char* help,
                  const Check& check = {}) {
    leaf(key, Slot(std::pair(&first, &second)), help, check);
  }

 private:
  virtual void leaf(const char* key, Slot slot, const char* help, const Check& check) = 0;
  virtual bool enter(const char* key, const char* help) = 0;  // false: skip this struct
  virtual void leave() = 0;
};

// A config whose type is forgotten: something that can be visited.
class Visitable {
 public:
  virtual ~Visitable() = default;
  virtual void visit(Fields& f) = 0;
};
template <class C>
class VisitableConfig : public Visitable {
 public:
  explicit VisitableConfig(C& config) : config_(config) {}
  void visit(Fields& f) override { config_.fields(f); }

 private:
  C& config_;
};

// Which keys were given and where, so that a recipe can refuse what fields() alone cannot judge.
class ConfigSource {
 public:
  // A path that the config does not have is a std::logic_error in all of these.
  // Whether the file or a --set gives this key ("optimizer.lr") or, for a struct, any key in it.
  bool is_set(const std::string& path) const;
  // `file:line:column` of the key, else of the nearest struct around it, else the file ("" without
  // one); for a --set `--set a.b=c`.
  std::string location(const std::string& path) const;
  // To be thrown: "demo.yaml:14:3: `optimizer.lr`: MESSAGE".
  ConfigError error(const std::string& path, const std::string& message) const;
  // Throws error(path, "is required; …") unless the key is given.
  void require(const std::string& path) const;
  const std::string& file() const { return file_; }

 private:
  friend class ConfigReader;
  std::string file_;
  std::set<std::string> known_;  // all paths, of keys and of structs
  // Those given, with their locations; the last source counts.
  std::map<std::string, std::string> keys_, structs_;
};

// One key of a config, or one struct in it (then `type` and `value` are empty).
struct ConfigKey {
  std::string path;   // "optimizer.lr"
  std::string type;   // "number", "whole number or null", "list of text", …
  std::string value;  // as YAML; of a default-made config the default
  std::string help;
  std::string range;  // "> 0", "cosine, wsd or constant"; empty without a check
};

// What the templates below call; yaml-cpp stays behind them.
ConfigSource read_config_into(Visitable& config, const std::string& path,
                              const std::vector<std::string>& sets, const std::string& verb);
std::string dump_config_of(Visitable& config);
std::vector<ConfigKey> config_keys_of(Visitable& config);
std::string list_keys_of(Visitable& config);

template <class C>
struct Config {
  C value;
  ConfigSource source;
};

// Reads the YAML file at `path` (empty: none) over C's defaults, then each "a.b=c" of `sets` in
// order (c is YAML too). `verb` is named in the message about an unknown key. Throws ConfigError,
// one line that begins with where: an unreadable file, broken YAML, an unknown key (with the
// nearest name), a key twice in one mapping, a wrong type, a failed check.
template <class C>
Config<C> read_config(const std::string& path, const std::vector<std::string>& sets,
                      const std::string& verb) {
  Config<C> config{};
  VisitableConfig<C> visitable(config.value);
  config.source = read_config_into(visitable, path, sets, verb);
  return config;
}

// The effective config as YAML that reads back to the same values, all keys in the order of
// fields().
template <class C>
std::string dump_config(C config) {
  VisitableConfig<C> visitable(config);
  return dump_config_of(visitable);
}

// All keys with type, default and help: as data, and as aligned lines `key  type  default  help`.
template <class C>
std::vector<ConfigKey> config_keys() {
  C config{};
  VisitableConfig<C> visitable(config);
  return config_keys_of(visitable);
}
template <class C>
std::string list_keys() {
  C config{};
  VisitableConfig<C> visitable(config);
  return list_keys_of(visitable);
}

}  // namespace conclave
