#include "checkpoint/shared_save.h"

#include <unistd.h>

#include <optional>

#include "base/error.h"
#include "base/fault.h"
#include "base/hash.h"
#include "checkpoint/agree.h"
#include "checkpoint/part_writer.h"
#include "checkpoint/save_parts.h"
#include "checkpoint/shared_plan.h"
#include "checkpoint/staging.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;

uint64_t hash_of(const SharedPlan& plan) {
  Hasher hasher;
  for (const PlannedFile& file : plan.files) {
    hasher.update(std::as_bytes(std::span(file.name)));
    hasher.update(std::as_bytes(std::span(file.header)));
  }
  return hasher.digest();
}

}  // namespace

void save_folder(const fs::path& target, const SharedContents& contents, comm::Comm& ranks) {
  const SharedPlan plan = plan_files(contents);
  require_same(ranks, hash_of(plan), kOtherTensors);
  std::optional<StagedFolder> staged;  // rank 0's
  all_or_none(ranks, [&] {
    if (ranks.rank() != 0) return;
    staged.emplace(target);
    make_files(staged->path(), plan);
  });
  const auto owner = static_cast<int>(of_rank_zero(ranks, getpid()));
  PartWriter writer(staged_path(target, owner), plan);
  all_or_none(ranks, [&] {
    for (const TensorPart& part : contents.tensors)
      if (part.data.defined()) writer.write("", part);
    for (const auto& [name, parts] : contents.beside)
      for (const TensorPart& part : parts)
        if (part.data.defined()) writer.write(name, part);
    fault_point("save/after_write");
  });
  all_or_none(ranks, [&] {
    writer.read_shared();
    writer.sync();
    fault_point("save/after_fsync");
  });
  const std::vector<std::string> reports = collect(ranks, writer.report());
  all_or_none(ranks, [&] {
    if (ranks.rank() != 0) return;
    Manifest manifest;
    add_files(manifest, plan, reports);
    if (!plan.index_json.empty())
      manifest[kIndexName] = write_text(staged->path() / kIndexName, plan.index_json);
    write_texts(staged->path(), contents.config_json, contents.files, manifest);
    write_manifest(staged->path(), manifest);
    fault_point("save/after_manifest");
    staged->commit();
  });
}

}  // namespace conclave::checkpoint
