#include "checkpoint/writer.h"

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "checkpoint/run_folder.h"
#include "checkpoint/testing.h"

namespace conclave::checkpoint {
namespace {

class Gate {  // a writer waits here until it is opened
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [&] { return open_; });
  }
  void open() {
    std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

FolderContents contents_of(const at::Tensor& x) {
  FolderContents contents{.config_json = "{}"};
  contents.tensors = {{"x", x}, {"empty", patterned({0, 3}, at::kFloat, 0)}};
  contents.beside["optimizer.safetensors"] = {{"x.m", patterned({11}, at::kDouble, 3)},
                                              {"step", patterned({}, at::kLong, 4)}};
  return contents;
}

TEST(BackgroundWriter, WritesWhatWasThereAtSubmit) {
  TempFolder dir;
  RunFolder run(dir / "run", 2);
  BackgroundWriter writer;
  Gate gate;
  const at::Tensor x = patterned({1000, 7}, at::kBFloat16, 1);
  writer.submit(contents_of(x), [&](const FolderContents& contents) {
    gate.wait();
    run.save(1, contents);
  });
  EXPECT_TRUE(writer.busy());
  std::memset(x.data_ptr(), 0, x.nbytes());  // training goes on
  gate.open();
  writer.finish();
  EXPECT_FALSE(writer.busy());
  const auto saved = read_tensors(dir / "run/latest/model.safetensors");
  expect_same(saved.at("x"), patterned({1000, 7}, at::kBFloat16, 1));
  expect_same(saved.at("empty"), patterned({0, 3}, at::kFloat, 0));
  const auto beside = read_tensors(dir / "run/latest/optimizer.safetensors");
  expect_same(beside.at("x.m"), patterned({11}, at::kDouble, 3));
  expect_same(beside.at("step"), patterned({}, at::kLong, 4));
}

TEST(BackgroundWriter, OneSaveInFlightAndOneBuffer) {
  BackgroundWriter writer;
  std::atomic<int> running = 0, most = 0, done = 0;
  std::vector<const void*> at;
  for (int i = 0; i < 5; ++i)
    writer.submit(contents_of(patterned({100}, at::kFloat, i)),
                  [&, i](const FolderContents& contents) {
                    most = std::max<int>(most, ++running);
                    at.push_back(contents.tensors[0].data.const_data_ptr());
                    expect_same(contents.tensors[0].data, patterned({100}, at::kFloat, i));
                    ++done, --running;
                  });
  writer.finish();
  EXPECT_EQ(done, 5);
  EXPECT_EQ(most, 1);
  for (const void* p : at) EXPECT_EQ(p, at[0]);
}

TEST(BackgroundWriter, TensorsThatAreNotContiguousAreWrittenAsTheyRead) {
  BackgroundWriter writer;
  const at::Tensor x = patterned({3, 5}, at::kFloat, 1);
  at::Tensor got;
  writer.submit(contents_of(x.t()),
                [&](const FolderContents& contents) { got = contents.tensors[0].data.clone(); });
  writer.finish();
  expect_same(got, x.t().contiguous());
}

TEST(BackgroundWriter, ErrorsComeOutAtTheNextCall) {
  TempFolder dir;
  const at::Tensor x = patterned({10}, at::kFloat, 1);
  write_text(dir / "file", "");
  const auto fails = [&](const FolderContents& contents) { save_folder(dir / "file", contents); };
  const auto works = [&](const FolderContents& contents) { save_folder(dir / "out", contents); };
  BackgroundWriter writer;
  writer.submit(contents_of(x), fails);
  EXPECT_CONTAINS(message_of([&] { writer.submit(contents_of(x), works); }),
                  "expected a folder or nothing there");
  EXPECT_FALSE(path_exists(dir / "out"));
  writer.submit(contents_of(x), works);
  writer.finish();
  EXPECT_TRUE(path_exists(dir / "out"));
  writer.submit(contents_of(x), fails);
  EXPECT_CONTAINS(message_of([&] { writer.finish(); }), "file");
  writer.finish();  // told once
  BackgroundWriter dropped;
  dropped.submit(contents_of(x), fails);
}

}  // namespace
}  // namespace conclave::checkpoint
