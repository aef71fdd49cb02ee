#include "checkpoint/writer.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "checkpoint/parts.h"
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

// Each rank's thread writes what the rank held at submit; none of the main threads waits.
TEST(BackgroundWriter, RanksWriteTogether) {
  TempFolder dir;
  save_folder(dir / "want", by_one(1000));
  comm::run_threads(3, [&](comm::Comm& ranks) {
    SharedContents contents = by_rank(ranks.rank(), 3, 1000, 1);
    for (TensorPart& part : contents.tensors)
      if (part.data.defined()) part.data = part.data.clone();
    std::vector<at::Tensor> held;
    for (const TensorPart& part : contents.tensors) held.push_back(part.data);
    BackgroundWriter writer;
    Gate gate;
    writer.submit(std::move(contents), [&](const SharedContents& c) {
      gate.wait();
      save_folder(dir / "got", c, ranks);
    });
    EXPECT_TRUE(writer.busy());
    for (const at::Tensor& x : held)
      if (x.defined()) std::memset(x.data_ptr(), 0, x.nbytes());
    gate.open();
    writer.finish();
  });
  EXPECT_EQ(files_of(dir / "got"), files_of(dir / "want"));
}

TEST(BackgroundWriter, AnErrorOfOneRankIsThatOfAll) {
  TempFolder dir;
  comm::run_threads(3, [&](comm::Comm& ranks) {
    SharedContents contents = by_rank(ranks.rank(), 3, 1000, 1);
    if (ranks.rank() == 1) contents.tensors[0].shape = {5, 7};
    BackgroundWriter writer;
    writer.submit(std::move(contents),
                  [&](const SharedContents& c) { save_folder(dir / "a", c, ranks); });
    while (writer.busy()) std::this_thread::yield();
    EXPECT_TRUE(writer.failed());
    EXPECT_CONTAINS(message_of([&] { writer.finish(); }), "rank 1: this rank would save other");
    EXPECT_FALSE(writer.failed());
  });
  EXPECT_FALSE(path_exists(dir / "a"));
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
