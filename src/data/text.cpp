#include "data/text.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/files.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/random.h"
#include "base/text.h"
#include "data/utf8.h"

namespace conclave::data {
namespace {

namespace fs = std::filesystem;

bool is_jsonl(const std::string& path) { return path.ends_with(".jsonl"); }
bool is_text(const std::string& path) { return path.ends_with(".txt") || is_jsonl(path); }

std::vector<std::string> find_files(const std::vector<std::string>& paths) {
  std::vector<std::string> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!fs::exists(path, error))
      throw RunError(path + ": no such file or folder; expected .txt or .jsonl files");
    if (!fs::is_directory(path, error)) {
      if (!is_text(path)) throw RunError(path + ": expected a name that ends in .txt or .jsonl");
      files.push_back(path);
      continue;
    }
    fs::recursive_directory_iterator it(path, fs::directory_options::follow_directory_symlink,
                                        error);
    for (; !error && it != fs::recursive_directory_iterator(); it.increment(error))
      if (is_text(it->path().string()) && it->is_regular_file(error))
        files.push_back(it->path().string());
    if (error) throw RunError(path + ": cannot list the folder: " + error.message());
  }
  std::sort(files.begin(), files.end());
  files.erase(std::unique(files.begin(), files.end()), files.end());
  if (files.empty())
    throw RunError((paths.empty() ? "no paths are given" : join(paths, ", ") + ": nothing found") +
                   "; expected .txt or .jsonl files");
  return files;
}

std::string_view view(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

using Visit = std::function<void(std::string_view)>;

void visit_txt(std::string_view text, const std::string& path,
               const std::optional<std::string>& separator, const Visit& visit) {
  if (size_t at = invalid_utf8(text); at != text.npos)
    throw RunError(format("%s: not UTF-8: byte 0x%02X at offset %zu", path.c_str(),
                          static_cast<uint8_t>(text[at]), at));
  while (separator) {
    size_t at = text.find(*separator);
    if (at == text.npos) break;
    visit(text.substr(0, at));
    text.remove_prefix(at + separator->size());
  }
  visit(text);
}

void visit_jsonl(std::string_view text, const std::string& path, const Visit& visit) {
  for (int64_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    std::string at = path + ":" + std::to_string(number);
    visit(get<std::string>(parse_json(line, at), "text", at));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
  }
}

}  // namespace

Corpus::Corpus(const TextConfig& config) : config_(config), files_(find_files(config.paths)) {
  if (config_.separator && config_.separator->empty())
    throw ConfigError("`separator`: expected text that is not empty");
  for (const std::string& file : files_) bytes_ += file_size(file);
}

void Corpus::for_each(const std::string& what,
                      const std::function<void(int64_t, std::string_view)>& fn) const {
  Progress progress(what, bytes_, Progress::Unit::bytes);
  int64_t index = 0;
  Visit visit = [&](std::string_view text) {
    if (!text.empty()) fn(index++, text);
  };
  for (const std::string& path : files_) {
    MappedFile file(path);
    file.will_read_in_order();
    if (is_jsonl(path))
      visit_jsonl(view(file), path, visit);
    else
      visit_txt(view(file), path, config_.separator, visit);
    progress.add(file.bytes().size());
  }
  if (index == 0) throw RunError(join(files_, ", ").substr(0, 200) + ": there is no text in there");
  progress.finish();
}

bool Corpus::held_out(int64_t index) const {
  if (config_.validation_every)
    return index % *config_.validation_every == *config_.validation_every - 1;
  return uniform(static_cast<uint64_t>(config_.seed), hash_name("validation"),
                 static_cast<uint64_t>(index)) < config_.validation_fraction;
}

uint64_t Corpus::fingerprint() const {
  Hasher hasher;
  auto add_text = [&](const std::string& text) {
    hasher.update(std::as_bytes(std::span(text)));
    hasher.update(std::as_bytes(std::span("", 1)));
  };
  auto add_number = [&](auto number) { hasher.update(std::as_bytes(std::span(&number, 1))); };
  add_number(config_.separator.has_value());
  add_text(config_.separator.value_or(""));
  add_number(config_.validation_every.value_or(0));
  add_number(config_.validation_every ? 0.0 : config_.validation_fraction);
  add_number(config_.validation_every ? int64_t{0} : config_.seed);
  for (const std::string& path : files_) {
    MappedFile file(path);
    add_number(is_jsonl(path));
    add_number(static_cast<uint64_t>(file.bytes().size()));
    hasher.update(file.bytes());
  }
  return hasher.digest();
}

}  // namespace conclave::data
