// What a run writes down while it goes: metrics.jsonl, one object a line. Keys are those of
// docs/formats.md.
#pragma once
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

namespace conclave::train {

class MetricsLog {
 public:
  // Opens FOLDER/metrics.jsonl to append. Lines of steps beyond `step` (of a run that was killed
  // after its last checkpoint) and a line that is cut off are removed first. Throws RunError when
  // the disk refuses.
  MetricsLog(const std::string& folder, int64_t step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  // One line, flushed to the system. `line` has the key "step".
  void write(const nlohmann::json& line);
  // The last line that is kept; an empty object if there is none.
  const nlohmann::json& last() const { return last_; }

 private:
  std::string path_;
  nlohmann::json last_ = nlohmann::json::object();
  std::FILE* file_ = nullptr;
};

}  // namespace conclave::train
