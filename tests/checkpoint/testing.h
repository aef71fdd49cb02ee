// What the tests of checkpoint/ share: a folder that vanishes, tensors with known bytes, and a
// child process that may be killed.
#pragma once
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/files.h"
#include "checkpoint/safetensors.h"

namespace conclave::checkpoint {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = std::filesystem::temp_directory_path() / "conclave-XXXXXX";
    if (!mkdtemp(pattern.data())) throw_errno(pattern, "create");
    path_ = pattern;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Byte i is 37 · i + 11 · seed mod 256 (BOOL: its last bit): every kind of NaN payload is among
// them.
inline at::Tensor patterned(std::vector<int64_t> shape, at::ScalarType dtype, int seed) {
  at::Tensor tensor = at::empty(shape, dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) {
    const auto value = static_cast<unsigned char>(37 * i + 11 * static_cast<size_t>(seed));
    bytes[i] = dtype == at::kBool ? value & 1 : value;
  }
  return tensor;
}

inline std::string bytes_of(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

// Same type, shape and bytes (NaN equals itself).
inline void expect_same(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.scalar_type(), b.scalar_type());
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_TRUE(bytes_of(a) == bytes_of(b));
}

// The message of the E that `f` throws; a failure and "" if it throws none.
template <class E = RunError>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "expected an error";
  return "";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}
#define EXPECT_CONTAINS(text, part) \
  EXPECT_TRUE(contains(text, part)) << (text) << "\n  lacks: " << (part)

inline void write_text(const std::filesystem::path& path, const std::string& text) {
  OutputFile out(path);
  out.write(text);
  out.finish();
}

// Runs f in a forked child; its exit status, or 128 + the signal that ended it. An exception is
// status 1.
inline int in_child(const std::function<void()>& f) {
  const pid_t pid = fork();
  if (pid == 0) {
    try {
      f();
    } catch (...) {
      _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

inline std::vector<std::string> names_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace conclave::checkpoint
