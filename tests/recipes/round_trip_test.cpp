// Folders in every published layout and as transformers writes them, read and written again: names,
// shapes and bytes. tools/tiny_folder.py makes them.
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "checkpoint/testing.h"
#include "models/registry.h"
#include "parallel/units.h"
#include "recipes/model_io.h"
#include "train/state.h"

namespace conclave::recipes {
namespace {

using checkpoint::TempFolder;

// All folders, made once: MODEL/published, MODEL/bf16, MODEL/sharded (published, three files) and
// MODEL/transformers.
class RoundTrip : public testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempFolder>();
    const char* set = std::getenv("CONCLAVE_PYTHON");
    const std::string python = set ? set : ".venv/bin/python";
    const std::string code =
        "import sys; sys.path.insert(0, 'tools')\n"
        "try: import tiny_folder, transformers\n"
        "except ImportError: sys.exit(77)\n"
        "for model in tiny_folder.CONFIGS:\n"
        "  for form in ('published', 'bf16', 'transformers'):\n"
        "    tiny_folder.make(model, f'{sys.argv[1]}/{model}/{form}', form)\n"
        "  tiny_folder.make(model, f'{sys.argv[1]}/{model}/sharded', shards=3)\n";
    const std::string command =
        python + " -c \"" + code + "\" " + folder_->path().string() + " 2>/dev/null";
    status_ = WEXITSTATUS(std::system(command.c_str()));
  }
  static void TearDownTestSuite() { folder_.reset(); }
  void SetUp() override {
    if (status_ == 77 || status_ == 127 || !path_exists("tools/tiny_folder.py"))
      GTEST_SKIP() << "needs Python with transformers, run from the project's root";
    ASSERT_EQ(status_, 0) << "tools/tiny_folder.py failed";
  }
  std::filesystem::path made(const std::string& form) const { return *folder_ / GetParam() / form; }
  std::filesystem::path saved() const { return *folder_ / GetParam() / "saved"; }

  // Reads MODEL/form with all it holds and writes MODEL/saved.
  void go_round(const std::string& form, at::ScalarType dtype = at::kBFloat16) const {
    const checkpoint::HfFolder files(made(form));
    const nlohmann::json config = parse_json(files.config_json(), "config.json");
    nn::Decoder decoder = models::make_decoder(config, "config.json",
                                               {.dtype = dtype, .mtp = form != "transformers"});
    const auto comm = comm::single();
    parallel::Units units(decoder, *comm, {.training = false});
    train::load_weights(files, units, [&](size_t i) { return units.shards()[i].weights; });
    checkpoint::FolderContents contents;
    contents.config_json = saved_config(config, decoder, dtype).dump(2) + "\n";
    contents.tensors = train::weight_tensors(units);
    checkpoint::save_folder(saved(), contents);
  }

 private:
  static inline std::unique_ptr<TempFolder> folder_;
  static inline int status_ = 0;
};

std::string weights_of(const std::filesystem::path& folder) {
  return read_file(folder / "model.safetensors");
}

TEST_P(RoundTrip, Bf16FoldersComeBackWithTheirBytes) {
  for (const std::string form : {"bf16", "transformers"}) {
    go_round(form);
    EXPECT_TRUE(weights_of(saved()) == weights_of(made(form))) << form;
  }
}

TEST_P(RoundTrip, PublishedFoldersBecomeTheBf16Form) {
  for (const std::string form : {"published", "sharded"}) {
    go_round(form);
    EXPECT_TRUE(weights_of(saved()) == weights_of(made("bf16"))) << form;
    EXPECT_EQ(read_json(saved() / "config.json"), read_json(made("bf16") / "config.json")) << form;
  }
}

// What was widened and saved is read again as the same bf16.
TEST_P(RoundTrip, WiderTypesHoldTheSameValues) {
  for (auto [dtype, name] : {std::pair{at::kFloat, "float32"}, {at::kDouble, "float64"}}) {
    go_round("bf16", dtype);
    const auto config = read_json(saved() / "config.json");
    EXPECT_EQ(config.contains("dtype") ? config["dtype"] : config["torch_dtype"], name);
    std::filesystem::remove_all(made("wide"));
    std::filesystem::rename(saved(), made("wide"));
    go_round("wide");
    EXPECT_TRUE(weights_of(saved()) == weights_of(made("bf16"))) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, RoundTrip,
                         testing::Values("qwen3_moe", "gpt_oss", "deepseek_v3", "kimi_k2",
                                         "moonlight"),
                         [](const auto& info) { return std::string(info.param); });

nn::Decoder no_layers(int modules) {
  nn::Decoder decoder;
  decoder.model_type = "of_the_decoder";
  decoder.mtp.resize(static_cast<size_t>(modules));
  return decoder;
}

TEST(SavedConfig, KeepsTheNameOfTheTypeAndDropsTheQuantization) {
  const nlohmann::json published = {{"torch_dtype", "bfloat16"},
                                    {"quantization_config", {{"quant_method", "fp8"}}},
                                    {"model_type", "kimi_k2"},
                                    {"num_nextn_predict_layers", 2}};
  EXPECT_EQ(
      saved_config(published, no_layers(0), at::kFloat),
      (nlohmann::json{
          {"torch_dtype", "float32"}, {"model_type", "kimi_k2"}, {"num_nextn_predict_layers", 0}}));
  const nlohmann::json both = {{"torch_dtype", "float16"}, {"dtype", "float16"}};
  EXPECT_EQ(saved_config(both, no_layers(1), at::kBFloat16),
            (nlohmann::json{{"dtype", "bfloat16"}, {"model_type", "of_the_decoder"}}));
  EXPECT_EQ(saved_config(nlohmann::json::object(), no_layers(0), at::kDouble)["dtype"], "float64");
}

}  // namespace
}  // namespace conclave::recipes
