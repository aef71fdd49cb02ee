// What a run writes down while it goes: metrics.jsonl, one object a line. Keys are those of
// docs/formats.md.
#pragma once
#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <optional>
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
  // The loss in the last line that was there at the start; nothing if it was not finite.
  std::optional<double> loss_before() const { return loss_before_; }

 private:
  std::string path_;
  std::optional<double> loss_before_;
  std::FILE* file_ = nullptr;
};

}  // namespace conclave::train
