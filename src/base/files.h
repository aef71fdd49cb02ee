// Files and folders. A system call that fails is a RunError "PATH: cannot write: No space left on
// device; free some or choose another folder".
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>

namespace conclave {

// "PATH: cannot ACTION: <text of errno>; <what to do>". Call it at once after the failed call: it
// reads errno.
[[noreturn]] void throw_errno(const std::string& path, const char* action);

// The whole file. Throws if it is larger than max_bytes.
std::string read_file(const std::string& path,
                      uint64_t max_bytes = std::numeric_limits<uint64_t>::max());

// Replaces `path` as a whole or leaves it as it was, whenever the machine stops: temporary file
// beside it, fsync, rename, fsync of the folder. Passes the fault points file.written, file.synced
// and file.renamed (base/fault.h).
void write_file_atomic(const std::string& path, std::string_view content);

// A file written front to back, for what is too large to hold in one string. The destructor closes
// without a word, so finish() is what tells whether all arrived.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path);  // created, or emptied
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  uint64_t size() const { return size_; }  // written so far
  void finish();                           // fsync and close

 private:
  std::string path_;
  int fd_;
  uint64_t size_ = 0;
};

// A file mapped for reading. An empty file gives an empty span. Truncating the file while it is
// mapped ends the process (SIGBUS), as with any mapping.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  void will_read_in_order() const;  // tells the kernel to read ahead

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

void fsync_path(const std::string& path);    // a file's content
void fsync_folder(const std::string& path);  // a folder's entries
void make_folder(const std::string& path);   // with its parents; one that is there is fine
void rename_path(const std::string& from,
                 const std::string& to);      // then fsync of the folder of `to`
void remove_folder(const std::string& path);  // with all in it; one that is not there is fine
bool path_exists(const std::string& path);
uint64_t file_size(const std::string& path);
uint64_t free_space(const std::string& path);  // bytes this user may still write where path is
std::string parent_folder(const std::string& path);  // "a/b" → "a", "b" → ".", "a/b/" → "a"

}  // namespace conclave
