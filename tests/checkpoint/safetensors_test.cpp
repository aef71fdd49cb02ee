#include "checkpoint/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "checkpoint/dtype.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

const std::vector<const char*> kNames = {"BF16", "F16", "F32",     "F64",     "I64",
                                         "I32",  "I16", "I8",      "U8",      "BOOL",
                                         "U16",  "U32", "F8_E4M3", "F8_E5M2", "F8_E8M0"};

// Every type as matrix, scalar and empty tensor. The Python script of SafetensorsParity makes the
// same.
std::vector<NamedTensor> every_type() {
  std::vector<NamedTensor> tensors;
  int seed = 0;
  for (const char* name : kNames) {
    const at::ScalarType dtype = *dtype_from_name(name);
    tensors.push_back({std::string("x.") + name, patterned({7, 33}, dtype, seed++)});
    tensors.push_back({std::string("scalar.") + name, patterned({}, dtype, seed++)});
    tensors.push_back({std::string("empty.") + name, patterned({3, 0, 2}, dtype, seed++)});
  }
  tensors.push_back({"a \"name\" with \\ / \x01 \n é 中", patterned({2}, at::kFloat, seed)});
  return tensors;
}

TEST(Safetensors, EveryTypeComesBackWithItsBytes) {
  TempFolder folder;
  const auto tensors = every_type();
  const WrittenFile written =
      write_safetensors(folder / "f", tensors, {{"format", "pt"}, {"é\"", "\t"}});
  const std::string bytes = read_file(folder / "f");
  EXPECT_EQ(written.bytes, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(written.xxh3, xxh3(std::as_bytes(std::span(bytes))));

  const SafetensorsFile file(folder / "f");
  EXPECT_EQ(file.metadata(), (Metadata{{"format", "pt"}, {"é\"", "\t"}}));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorInfo& info : file.tensors())
    EXPECT_EQ(info.begin % static_cast<int64_t>(c10::elementSize(info.dtype)), 0) << info.name;
  const auto copies = read_tensors(folder / "f");
  for (const NamedTensor& tensor : tensors) {
    SCOPED_TRACE(tensor.name);
    expect_same(tensor.data, file.view(tensor.name));
    expect_same(tensor.data, copies.at(tensor.name));
  }
  EXPECT_EQ(file.find("y"), nullptr);
  EXPECT_CONTAINS(message_of([&] { file.view("y"); }), "no tensor `y`");
}

TEST(Safetensors, SameTensorsInAnyOrderMakeTheSameBytes) {
  TempFolder folder;
  auto tensors = every_type();
  const WrittenFile first = write_safetensors(folder / "a", tensors);
  std::reverse(tensors.begin(), tensors.end());
  const WrittenFile second = write_safetensors(folder / "b", tensors);
  EXPECT_EQ(first.xxh3, second.xxh3);
  EXPECT_EQ(read_file(folder / "a"), read_file(folder / "b"));
}

TEST(Safetensors, NoTensorsAtAll) {
  TempFolder folder;
  write_safetensors(folder / "f", {});
  EXPECT_EQ(read_file(folder / "f"), std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  EXPECT_TRUE(SafetensorsFile(folder / "f").tensors().empty());
}

TEST(Safetensors, ViewOutlivesItsFileAndSharesItsMapping) {
  TempFolder folder;
  const at::Tensor x = patterned({1000}, at::kFloat, 3);
  write_safetensors(folder / "f", std::vector<NamedTensor>{{"x", x}});
  auto file = std::make_unique<SafetensorsFile>(folder / "f");
  const at::Tensor a = file->view("x"), b = file->view("x");
  EXPECT_EQ(a.const_data_ptr(), b.const_data_ptr());
  file.reset();
  std::filesystem::remove(folder / "f");
  expect_same(a, x);
}

TEST(Safetensors, MissingFileAndFolder) {
  TempFolder folder;
  EXPECT_CONTAINS(message_of([&] { SafetensorsFile(folder / "absent"); }), "absent");
  EXPECT_THROW(SafetensorsFile(folder.path()), RunError);
  write_text(folder / "empty", "");
  EXPECT_CONTAINS(message_of([&] { SafetensorsFile(folder / "empty"); }), "it has 0 bytes");
}

TEST(Safetensors, AtomicWriteLeavesTheOldFileOnFailure) {
  TempFolder folder;
  const std::vector<NamedTensor> small = {{"x", patterned({4}, at::kFloat, 1)}};
  write_safetensors_atomic(folder / "f", small);
  const std::string before = read_file(folder / "f");
  write_text(folder / ".f.tmp-2147480000", "of a process that is no more");

  const std::vector<NamedTensor> twice = {small[0], small[0]};
  EXPECT_THROW(write_safetensors_atomic(folder / "f", twice), c10::Error);
  EXPECT_EQ(128 + SIGKILL, in_child([&] {
              setenv("CONCLAVE_KILL_AT", "save/after_write", 1);
              write_safetensors_atomic(folder / "f", every_type());
            }));
  EXPECT_EQ(read_file(folder / "f"), before);
  EXPECT_EQ(names_in(folder.path()).size(), 2u);  // what the killed child left
  write_safetensors_atomic(folder / "f", every_type());
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"f"});
  EXPECT_THROW(write_safetensors_atomic(folder / "no such folder/f", small), RunError);
}

// The format's own library reads ours, writes the same bytes from it, and we read those.
TEST(SafetensorsParity, PythonReadsAndWritesTheSameBytes) {
  const char* set = std::getenv("CONCLAVE_PYTHON");
  const std::string python = set ? set : ".venv/bin/python";
  TempFolder folder;
  const auto tensors = every_type();
  write_safetensors(folder / "ours.safetensors", tensors, {{"format", "pt"}});
  const std::string command =
      python + " tests/parity/safetensors_parity.py " + folder.path().string();
  const int status = WEXITSTATUS(std::system(command.c_str()));
  if (status == 77 || !path_exists("tests/parity") || status == 127)
    GTEST_SKIP() << "needs " << python
                 << " with torch and safetensors, run from the project's root";
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(read_file(folder / "ours.safetensors") == read_file(folder / "theirs.safetensors"));
  const SafetensorsFile theirs(folder / "theirs.safetensors");
  for (const NamedTensor& tensor : tensors) expect_same(tensor.data, theirs.view(tensor.name));
}

}  // namespace
}  // namespace conclave::checkpoint
