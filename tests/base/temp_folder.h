// A folder of its own for one test, removed at the end.
#pragma once
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

namespace conclave {

class TempFolder {
 public:
  TempFolder() {
    path_ = (std::filesystem::temp_directory_path() / "conclave_test_XXXXXX").string();
    if (!::mkdtemp(path_.data())) throw std::runtime_error("cannot make " + path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + '/' + name; }
  std::string write(const std::string& name, const std::string& content) const {
    std::string file = *this / name;
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }
  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  std::string path_;
};

// The message of the Error that the call throws; a failure of the test if it throws none or
// another.
#define CONCLAVE_MESSAGE_OF(Error, call)                         \
  [&]() -> std::string {                                         \
    try {                                                        \
      (void)(call);                                              \
    } catch (const Error& error) {                               \
      return error.what();                                       \
    } catch (const std::exception& error) {                      \
      ADD_FAILURE() << #call " threw another: " << error.what(); \
      return "";                                                 \
    }                                                            \
    ADD_FAILURE() << #call " threw nothing";                     \
    return "";                                                   \
  }()

}  // namespace conclave
