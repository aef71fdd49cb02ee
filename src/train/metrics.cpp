#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/text.h"

namespace conclave::train {
namespace {

// The lines of `text` that are whole and of a step up to `step`.
std::string kept_lines(const std::string& text, int64_t step) {
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) continue;
    if (json["step"].get<int64_t>() <= step) kept += line + '\n';
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& folder, int64_t step) : path_(folder + "/metrics.jsonl") {
  if (std::filesystem::exists(path_)) {
    const std::string text = read_file(path_), kept = kept_lines(text, step);
    if (kept.size() != text.size()) write_file_atomic(path_, kept);
    if (!kept.empty()) {
      const auto last = nlohmann::json::parse(kept.substr(kept.rfind('\n', kept.size() - 2) + 1));
      if (last.contains("loss") && last["loss"].is_number()) loss_before_ = last["loss"];
    }
  }
  file_ = std::fopen(path_.c_str(), "a");
  if (!file_) throw RunError(path_ + ": cannot write: " + std::strerror(errno));
}

MetricsLog::~MetricsLog() {
  if (file_) std::fclose(file_);
}

void MetricsLog::write(const nlohmann::json& line) {
  const std::string text = line.dump() + '\n';
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
    throw RunError(path_ + ": cannot write: " + std::strerror(errno));
}

}  // namespace conclave::train
