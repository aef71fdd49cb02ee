#include "models/keys.h"

#include "base/text.h"

namespace conclave::models {

const nlohmann::json* Keys::find(const std::vector<std::string>& names) const {
  for (const auto& path : names) asked_.insert(path.substr(0, path.find('.')));
  for (const auto& path : names) {
    const nlohmann::json* at = &config_;
    for (size_t begin = 0; at && begin <= path.size();) {
      const size_t end = std::min(path.find('.', begin), path.size());
      const auto found = at->is_object() ? at->find(path.substr(begin, end - begin)) : at->end();
      at = at->is_object() && found != at->end() ? &*found : nullptr;
      begin = end + 1;
    }
    if (at && !at->is_null()) return at;
  }
  return nullptr;
}

std::string Keys::given(const std::vector<std::string>& names) const {
  for (const auto& name : names)
    if (find({name})) return name;
  return names.front();
}

void Keys::refuse(const std::string& key, const std::string& what) const {
  const auto place = places_.find(key.substr(0, key.find('.')));
  throw ConfigError((place == places_.end() ? from_ : place->second) + ": `" + key + "`: " + what);
}

void Keys::expect(const std::map<std::string, nlohmann::json>& values) const {
  for (const auto& [key, value] : values)
    if (const auto* v = find({key}); v && *v != value)
      refuse(key, "expected " + value.dump() + ", got " + v->dump() + "; others are not supported");
}

void Keys::refuse_unknown(const std::set<std::string>& without_effect_here) const {
  for (const auto& [key, place] : places_) {
    if (asked_.count(key) || without_effect_here.count(key)) continue;
    const std::string near = nearest(key, {asked_.begin(), asked_.end()});
    throw ConfigError(place + ": unknown key `" + key + "` of this architecture" +
                      (near.empty() ? "" : "; did you mean `" + near + "`?"));
  }
}

int64_t Keys::count(const std::vector<std::string>& names) const {
  if (!find(names)) refuse(names.front(), "missing; expected an integer of at least 1");
  return count(names, 1);
}

int64_t Keys::count(const std::vector<std::string>& names, int64_t otherwise, int64_t least) const {
  const auto* v = find(names);
  if (!v) return otherwise;
  if (!v->is_number_integer() || v->get<int64_t>() < least ||
      v->get<int64_t>() > (int64_t{1} << 40))
    refuse(given(names),
           "expected an integer of at least " + std::to_string(least) + ", got " + v->dump());
  return v->get<int64_t>();
}

bool Keys::is_null(const std::string& name) const {
  asked_.insert(name);
  const auto found = config_.find(name);
  return found != config_.end() && found->is_null();
}

double Keys::number(const std::vector<std::string>& names, double otherwise) const {
  const auto* v = find(names);
  if (!v) return otherwise;
  if (!v->is_number()) refuse(given(names), "expected a number, got " + v->dump());
  return v->get<double>();
}

bool Keys::flag(const std::string& name, bool otherwise) const {
  const auto* v = find({name});
  if (!v) return otherwise;
  if (!v->is_boolean()) refuse(name, "expected true or false, got " + v->dump());
  return v->get<bool>();
}

std::string Keys::text(const std::vector<std::string>& names, const std::string& otherwise) const {
  const auto* v = find(names);
  if (!v) return otherwise;
  if (!v->is_string()) refuse(given(names), "expected a text, got " + v->dump());
  return v->get<std::string>();
}

std::vector<int64_t> Keys::indices(const std::string& name) const {
  const auto* v = find({name});
  std::vector<int64_t> out;
  if (!v) return out;
  if (!v->is_array()) refuse(name, "expected a list of integers, got " + v->dump());
  for (const auto& i : *v) {
    if (!i.is_number_integer() || i.get<int64_t>() < 0)
      refuse(name, "expected integers of at least 0, got " + i.dump());
    out.push_back(i.get<int64_t>());
  }
  return out;
}

std::vector<std::string> Keys::texts(const std::string& name) const {
  const auto* v = find({name});
  std::vector<std::string> out;
  if (!v) return out;
  if (!v->is_array()) refuse(name, "expected a list of texts, got " + v->dump());
  for (const auto& text : *v) {
    if (!text.is_string()) refuse(name, "expected texts, got " + text.dump());
    out.push_back(text.get<std::string>());
  }
  return out;
}

}  // namespace conclave::models
