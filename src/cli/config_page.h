// docs/config.md, made from the configs' own descriptions.
#pragma once
#include <string>

namespace conclave::cli {

// All keys of all verbs with a config, as Markdown.
std::string config_page();

// The keys of one verb's config as aligned lines; empty for a verb without one.
std::string config_lines(const std::string& verb);

}  // namespace conclave::cli
