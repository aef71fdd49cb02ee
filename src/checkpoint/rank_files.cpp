#include "checkpoint/rank_files.h"

#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>
#include <c10/util/accumulate.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/fault.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/text.h"
#include "checkpoint/agree.h"
#include "checkpoint/dtype.h"
#include "checkpoint/save_parts.h"
#include "checkpoint/staging.h"
#include "checkpoint/stored.h"

namespace conclave::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kModel = "model";

std::string rank_file(int64_t rank, int64_t ranks) {
  return format("rank-%05lld-of-%05lld.safetensors", static_cast<long long>(rank),
                static_cast<long long>(ranks));
}

// Calls f(FILE, tensors) for the model and each file beside it.
template <class Contents, class F>
void each_file(Contents& contents, const F& f) {
  f(std::string(), contents.tensors);
  for (auto& [name, parts] : contents.beside) f(name, parts);
}

json description(const SharedContents& contents, int ranks) {
  json tensors = json::object();
  each_file(contents, [&](const std::string& of, const std::vector<TensorPart>& parts) {
    json& list = tensors[of.empty() ? kModel : of] = json::array();
    for (const TensorPart& p : parts)
      list.push_back({p.name, dtype_name(p.dtype), p.shape, p.transposed});
  });
  return {{"format", 1},
          {"ranks", ranks},
          {"max_shard_bytes", contents.max_shard_bytes},
          {"tensors", tensors}};
}

// What this rank writes.
std::vector<NamedTensor> own_parts(const SharedContents& contents) {
  std::vector<NamedTensor> own;
  each_file(contents, [&](const std::string& of, const std::vector<TensorPart>& parts) {
    for (const TensorPart& p : parts)
      if (p.data.defined() && p.data.numel() > 0)
        own.push_back({(of.empty() ? kModel : of) + "/" + p.name + "@" + std::to_string(p.first),
                       p.data.view({-1})});
  });
  return own;
}

// "FILE/NAME@FIRST"; FILE has no slash, and FIRST no sign.
struct Key {
  std::string of, name;
  int64_t first = 0;
};
std::optional<Key> key_of(const std::string& text) {
  const size_t slash = text.find('/'), at = text.rfind('@');
  if (slash == std::string::npos || at == std::string::npos || at < slash) return std::nullopt;
  Key key{text.substr(0, slash), text.substr(slash + 1, at - slash - 1)};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + at + 1, end, key.first);
  if (error != std::errc{} || rest != end || key.first < 0) return std::nullopt;
  if (key.of == kModel) key.of.clear();
  return key;
}

int64_t numel_of(const TensorPart& p) { return c10::multiply_integers(p.shape); }

[[noreturn]] void damaged(const fs::path& path, const std::string& what) {
  throw RunError(path.string() + ": " + what);
}

}  // namespace

bool has_rank_files(const fs::path& folder) { return path_exists(folder / kRankFilesName); }

void save_rank_files(const fs::path& target, const SharedContents& contents, comm::Comm& ranks) {
  const std::string text = description(contents, ranks.size()).dump(1) + "\n";
  require_same(ranks, xxh3(std::as_bytes(std::span(text))), kOtherTensors);
  std::optional<StagedFolder> staged;  // rank 0's
  all_or_none(ranks, [&] {
    if (ranks.rank() == 0) staged.emplace(target);
  });
  const fs::path folder = staged_path(target, static_cast<int>(of_rank_zero(ranks, ::getpid())));
  WrittenFile mine;
  all_or_none(ranks, [&] {
    mine = write_safetensors(folder / rank_file(ranks.rank(), ranks.size()), own_parts(contents));
  });
  const auto reports = collect(ranks, std::to_string(mine.bytes) + " " + std::to_string(mine.xxh3));
  all_or_none(ranks, [&] {
    if (ranks.rank() != 0) return;
    Manifest manifest;
    for (size_t r = 0; r < reports.size(); ++r) {
      WrittenFile& file = manifest[rank_file(static_cast<int64_t>(r), ranks.size())];
      std::istringstream(reports[r]) >> file.bytes >> file.xxh3;
    }
    manifest[kRankFilesName] = write_text(folder / kRankFilesName, text);
    write_texts(folder, contents.config_json, contents.files, manifest);
    const RankFiles whole(folder);  // throws unless each element is there once
    write_manifest(folder, manifest);
    fault_point("save/after_manifest");
    staged->commit();
  });
}

RankFiles::RankFiles(const fs::path& folder) : path_(folder) {
  describe();
  open();
  check_cover();
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename();
    if (!entry.is_regular_file()) continue;
    if (name == "config.json")
      contents_.config_json = read_file(entry.path());
    else if (name != kRankFilesName && name != kManifestName && !name.starts_with("rank-"))
      contents_.files[name] = read_file(entry.path());
  }
}

void RankFiles::describe() {
  const fs::path path = path_ / kRankFilesName;
  const json j = read_json(path);
  if (get<int64_t>(j, "format", path) != 1)
    damaged(path, "expected format 1; the folder is of another version");
  const auto ranks = get<int64_t>(j, "ranks", path);
  if (ranks < 1 || ranks > 99999) damaged(path, "`ranks`: expected 1 to 99999");
  files_.resize(static_cast<size_t>(ranks));
  contents_.max_shard_bytes = get<int64_t>(j, "max_shard_bytes", path);
  if (contents_.max_shard_bytes < 1) damaged(path, "`max_shard_bytes`: expected at least 1");
  if (!j.contains("tensors") || !j["tensors"].is_object())
    damaged(path, "expected an object `tensors`");
  for (const auto& [file, list] : j["tensors"].items()) {
    const std::string of = file == kModel ? "" : file;
    std::vector<TensorPart>& parts = of.empty() ? contents_.tensors : contents_.beside[of];
    for (const json& one : list) try {
        const auto dtype = dtype_from_name(one.at(1).get<std::string>());
        if (!dtype) damaged(path, "a tensor of unknown type: " + one.dump());
        parts.push_back({one.at(0), *dtype, one.at(2).get<std::vector<int64_t>>(), one.at(3)});
        if (!found_[of].emplace(parts.back().name, Tensor{parts.back(), {}}).second)
          damaged(path, "two tensors `" + parts.back().name + "` of " + file);
      } catch (const json::exception&) {
        damaged(path, "expected [name, type, shape, transposed], found " + one.dump());
      }
  }
}

void RankFiles::open() {
  for (int64_t r = 0; r < ranks(); ++r) {
    auto& file = files_[static_cast<size_t>(r)];
    file = std::make_unique<SafetensorsFile>(path_ / rank_file(r, ranks()));
    for (const TensorInfo& info : file->tensors()) {
      const auto key = key_of(info.name);
      if (!key || !found_.contains(key->of) || !found_[key->of].contains(key->name))
        damaged(file->path(), "`" + info.name + "` is no part of a tensor of " + kRankFilesName);
      Tensor& tensor = found_[key->of][key->name];
      if (info.dtype != tensor.described.dtype || info.shape.size() != 1)
        damaged(file->path(), "`" + info.name + "`: its type and shape are not a part's");
      tensor.parts.push_back({file.get(), info.name, key->first, info.shape[0]});
    }
  }
}

void RankFiles::check_cover() const {
  for (const auto& [of, tensors] : found_)
    for (const auto& [name, tensor] : tensors) {
      const int64_t all = numel_of(tensor.described);
      std::map<int64_t, int64_t> ends;  // by first element
      for (const Part& p : tensor.parts) {
        if (p.first > all - p.count)
          damaged(path_, "`" + name + "`: a rank holds more than its elements");
        if (!ends.emplace(p.first, p.first + p.count).second)
          damaged(path_, "`" + name + "`: two ranks hold element " + std::to_string(p.first));
      }
      int64_t end = 0;
      for (const auto& [first, last] : ends) {
        if (first != end)
          damaged(path_, "`" + name + "`: " + (first < end ? "two ranks hold" : "no rank holds") +
                             " element " + std::to_string(std::min(first, end)));
        end = last;
      }
      if (end != all)
        damaged(path_, "`" + name + "`: no rank holds element " + std::to_string(end));
    }
}

void RankFiles::each_part(
    int64_t rank, const std::function<void(const std::string& of, const TensorPart&)>& f) const {
  const SafetensorsFile& file = *files_.at(static_cast<size_t>(rank));
  for (const TensorInfo& info : file.tensors()) {
    const Key key = *key_of(info.name);
    TensorPart part = found_.at(key.of).at(key.name).described;
    part.data = file.view(info.name);
    part.first = key.first;
    f(key.of, part);
  }
}

const std::map<std::string, RankFiles::Tensor>& RankFiles::tensors(const std::string& of) const {
  const auto found = found_.find(of);
  if (found == found_.end()) damaged(path_ / kRankFilesName, "expected tensors of " + of);
  return found->second;
}

std::map<std::string, at::Tensor> RankFiles::read(const std::string& of) const {
  std::map<std::string, at::Tensor> all;
  std::vector<LoadTarget> targets;
  for (const auto& [name, tensor] : tensors(of)) {
    all[name] = at::empty(tensor.described.shape, tensor.described.dtype);
    targets.push_back({name, tensor.described.shape, all[name]});
  }
  load_tensors(*this, of, targets);
  return all;
}

void load_tensors(const RankFiles& files, const std::string& of,
                  std::span<const LoadTarget> targets) {
  const auto& tensors = files.tensors(of);
  for (const LoadTarget& target : targets) {
    const auto found = tensors.find(target.name);
    if (found == tensors.end())
      damaged(files.path(), "expected tensor `" + target.name + "`, found none");
    const TensorPart& described = found->second.described;
    if (described.shape != target.shape || described.dtype != target.into.scalar_type())
      damaged(
          files.path(),
          format("`%s`: expected %s %s, found %s %s; conclave merge makes a model folder of it, "
                 "whose types are converted",
                 target.name.c_str(), dtype_name(target.into.scalar_type()).data(),
                 shape_text(target.shape).c_str(), dtype_name(described.dtype).data(),
                 shape_text(described.shape).c_str()));
    const int64_t begin = target.first, end = begin + target.into.numel();
    for (const RankFiles::Part& part : found->second.parts) {
      const int64_t from = std::max(begin, part.first), to = std::min(end, part.first + part.count);
      if (from >= to) continue;
      target.into.view({-1})
          .narrow(0, from - begin, to - from)
          .copy_(part.file->view(part.key).narrow(0, from - part.first, to - from));
    }
  }
}

}  // namespace conclave::checkpoint
