#include "checkpoint/merge.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/part_writer.h"
#include "checkpoint/rank_files.h"
#include "checkpoint/save_parts.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {

void merge_rank_files(const std::filesystem::path& folder, const std::filesystem::path& target) {
  if (!has_rank_files(folder))
    throw RunError(folder.string() + ": expected a checkpoint in one file a rank, found no " +
                   kRankFilesName + " in it");
  if (const std::string damage = find_damage(folder, Verify::checksums); !damage.empty())
    throw RunError(folder.string() + ": damaged: " + damage);
  const RankFiles from(folder);
  const SharedPlan plan = plan_files(from.contents());
  StagedFolder staged(target);
  make_files(staged.path(), plan);
  std::vector<PartWriter> writers;  // as the ranks would have been
  for (int64_t r = 0; r < from.ranks(); ++r) {
    writers.emplace_back(staged.path(), plan);
    from.each_part(
        r, [&](const std::string& of, const TensorPart& part) { writers.back().write(of, part); });
    writers.back().sync();
  }
  std::vector<std::string> reports;
  for (PartWriter& writer : writers) {
    writer.read_shared();
    writer.sync();
    reports.push_back(writer.report());
  }
  Manifest manifest;
  add_files(manifest, plan, reports);
  if (!plan.index_json.empty())
    manifest[kIndexName] = write_text(staged.path() / kIndexName, plan.index_json);
  write_texts(staged.path(), from.contents().config_json, from.contents().files, manifest);
  write_manifest(staged.path(), manifest);
  staged.commit();
}

}  // namespace conclave::checkpoint
