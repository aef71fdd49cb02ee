// One member of a config and its text: for config.cpp and config_text.cpp.
#pragma once
#include <string>

#include "base/config.h"
#include "base/yaml.h"

namespace conclave {

// Sets the member from the node, or throws ConfigError "WHERE: `path`: expected a number > 0, got
// `-1`".
void read_slot(const YamlNode& node, const std::string& path, Slot slot, const Check& check);

std::string slot_type(const Slot& slot);      // "number", "list of text"
std::string slot_value(const Slot& slot);     // as YAML
std::string check_range(const Check& check);  // "> 0"; empty without a check

}  // namespace conclave
