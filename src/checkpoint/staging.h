// Folders, files and links that appear under their names in one step, and what becomes of them when
// a writer is killed.
#pragma once
#include <filesystem>
#include <string>

namespace conclave::checkpoint {

// runs/a → runs/.a.KIND-PID; kinds: tmp (being written), old (set aside while its successor takes
// its place).
std::filesystem::path hidden_sibling(const std::filesystem::path& target, const char* kind);

// The folder that process `owner` stages for `target`, for others that write into it.
std::filesystem::path staged_path(const std::filesystem::path& target, int owner);

// A hidden folder beside `target` on the same file system; removed again unless committed.
class StagedFolder {
 public:
  explicit StagedFolder(const std::filesystem::path& target);
  ~StagedFolder();
  StagedFolder(const StagedFolder&) = delete;
  StagedFolder& operator=(const StagedFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  // All files are written and fsynced: puts the folder in place of `target`, which need not exist.
  void commit();

 private:
  std::filesystem::path target_, path_;
  bool committed_ = false;
};

enum class Swap { exchange, two_renames };

// Puts `staged` at `target` and fsyncs their parent. Swap::exchange swaps two names in one system
// call, so a whole folder stands at `target` at every moment; where the file system cannot, or with
// two_renames, the old one is set aside as .NAME.old-PID first, and recover() mends a death in
// between.
void put_in_place(const std::filesystem::path& staged, const std::filesystem::path& target,
                  Swap how = Swap::exchange);

// Removes what killed writers of `target` (a folder or file) left beside it, and puts back a folder
// whose replacement stopped between its two renames. Leaves alone what a living process of this
// machine is writing.
void recover(const std::filesystem::path& target);

// A symbolic link `link` → `to` (relative), replaced in one step.
void replace_link(const std::filesystem::path& link, const std::string& to);

}  // namespace conclave::checkpoint
