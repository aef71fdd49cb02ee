#include "base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/fault.h"

namespace conclave {
namespace {

constexpr size_t kLargestCall = size_t{1} << 30;  // Linux moves at most 2 GiB − 4096 bytes a call

const char* advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some or choose another folder";
    case EACCES:
    case EPERM:
      return "; check the permissions";
    case EROFS:
      return "; choose a folder that can be written";
    case ENOENT:
      return "; check the path";
    case EMFILE:
    case ENFILE:
      return "; raise the limit of open files (ulimit -n)";
    case EISDIR:
      return "; name a file, not a folder";
    case ENOTDIR:
      return "; a part of the path is a file";
    case EIO:
      return "; the disk may be damaged";
    default:
      return "";
  }
}

// A file descriptor that is closed on the way out.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, const char* action) : fd_(open_path(path, flags)) {
    if (fd_ < 0) throw_errno(path, action);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  static int open_path(const std::string& path, int flags) {
    int fd;
    do fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
  }
  int fd_;
};

uint64_t size_of(int fd, const std::string& path) {
  struct stat status;
  if (::fstat(fd, &status) != 0) throw_errno(path, "read");
  if (S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    throw_errno(path, "read");
  }
  return static_cast<uint64_t>(status.st_size);
}

void throw_code(const std::string& path, const char* action, const std::error_code& error) {
  if (!error) return;
  errno = error.value();
  throw_errno(path, action);
}

}  // namespace

void throw_errno(const std::string& path, const char* action) {
  int error = errno;
  throw RunError(path + ": cannot " + action + ": " + std::generic_category().message(error) +
                 advice(error));
}

std::string read_file(const std::string& path, uint64_t max_bytes) {
  Descriptor file(path, O_RDONLY, "open");
  uint64_t expected = size_of(file.get(), path);  // 0 for pipes and /proc: then it grows
  std::string content;
  uint64_t size = 0;
  for (;;) {
    if (size > max_bytes || expected > max_bytes)
      throw RunError(path + ": expected at most " + std::to_string(max_bytes) + " bytes, got " +
                     (expected > max_bytes ? std::to_string(expected) : "more"));
    if (size == content.size()) content.resize(std::max<uint64_t>({expected, size * 2, 4096}));
    ssize_t got =
        ::read(file.get(), content.data() + size, std::min(content.size() - size, kLargestCall));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno(path, "read");
    if (got == 0) break;
    size += static_cast<uint64_t>(got);
    if (size == expected) content.resize(size + 1);  // room for the read that finds the end
  }
  content.resize(size);
  return content;
}

void write_file_atomic(const std::string& path, std::string_view content) {
  static std::atomic<int> serial{0};
  std::string temporary =
      path + ".tmp." + std::to_string(::getpid()) + '.' + std::to_string(serial++);
  try {
    OutputFile file(temporary);
    file.write(content);
    fault_point("file.written");
    file.finish();
    fault_point("file.synced");
    rename_path(temporary, path);
  } catch (const RunError&) {
    ::unlink(temporary.c_str());
    throw;
  }
  fault_point("file.renamed");
}

OutputFile::OutputFile(const std::string& path) : path_(path) {
  do fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw_errno(path, "create");
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    ssize_t done = ::write(fd_, bytes.data(), std::min(bytes.size(), kLargestCall));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw_errno(path_, "write");
    size_ += static_cast<uint64_t>(done);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void OutputFile::finish() {
  if (::fsync(fd_) != 0) throw_errno(path_, "write to disk");
  if (::close(std::exchange(fd_, -1)) != 0) throw_errno(path_, "write");
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  Descriptor file(path, O_RDONLY, "open");
  size_ = size_of(file.get(), path);
  if (size_ == 0) return;
  void* data = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) throw_errno(path, "map");
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::will_read_in_order() const {
  if (!data_) return;
  auto* data = const_cast<std::byte*>(data_);
  ::madvise(data, size_, MADV_SEQUENTIAL);  // hints: their failure changes nothing
  ::madvise(data, size_, MADV_WILLNEED);
}

void fsync_path(const std::string& path) {
  Descriptor file(path, O_RDONLY, "open");
  if (::fsync(file.get()) != 0) throw_errno(path, "write to disk");
}

void fsync_folder(const std::string& path) {
  Descriptor folder(path, O_RDONLY | O_DIRECTORY, "open");
  // Some network file systems have no fsync of folders, and say so with EINVAL.
  if (::fsync(folder.get()) != 0 && errno != EINVAL) throw_errno(path, "write to disk");
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  throw_code(path, "create", error);
}

void rename_path(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    throw_errno(to, ("take the place of: rename " + from).c_str());
  fsync_folder(parent_folder(to));
}

void remove_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  throw_code(path, "remove", error);
}

bool path_exists(const std::string& path) {
  struct stat status;
  if (::stat(path.c_str(), &status) == 0) return true;
  if (errno != ENOENT && errno != ENOTDIR) throw_errno(path, "look at");
  return false;
}

uint64_t file_size(const std::string& path) {
  Descriptor file(path, O_RDONLY, "open");
  return size_of(file.get(), path);
}

uint64_t free_space(const std::string& path) {
  struct statvfs status;
  std::string place = path;
  while (::statvfs(place.c_str(), &status) != 0) {
    if (errno != ENOENT || place == "." || place == "/") throw_errno(path, "ask for free space");
    place = parent_folder(place);  // not made yet: what counts is where it will be
  }
  return static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
}

std::string parent_folder(const std::string& path) {
  size_t end = path.find_last_not_of('/');
  if (end == std::string::npos) return path.empty() ? "." : "/";
  size_t slash = path.find_last_of('/', end);
  if (slash == std::string::npos) return ".";
  size_t last = path.find_last_not_of('/', slash);
  return last == std::string::npos ? "/" : path.substr(0, last + 1);
}

}  // namespace conclave
