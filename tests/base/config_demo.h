// A config with a member of each kind, and the fixture that reads it.
#pragma once
#include <gtest/gtest.h>

#include "base/config.h"
#include "base/temp_folder.h"

namespace conclave {

struct Optimizer {
  double lr = 3e-4, beta1 = 0.9, beta2 = 0.95, weight_decay = 0.1;
  std::string schedule = "cosine";
  void fields(auto& f) {
    f("lr", lr, "peak learning rate", positive);
    f("betas", beta1, beta2, "decay of the two moments", in(0, 1));
    f("weight_decay", weight_decay, "on matrices only", not_negative);
    f("schedule", schedule, "shape", one_of({"cosine", "wsd", "constant"}));
  }
};

struct Data {
  std::string path;
  int64_t seq_len = 256;
  std::vector<std::string> files;
  std::vector<int64_t> splits{9, 1};
  void fields(auto& f) {
    f("path", path, "text to read");
    f("seq_len", seq_len, "tokens a row", at_least(2));
    f("files", files, "names");
    f("splits", splits, "parts", positive);
  }
};

struct Demo {
  int64_t seed = 1;
  bool shuffle = true;
  std::optional<double> clip;
  std::optional<int64_t> keep = 3;
  std::optional<std::string> note;
  std::optional<bool> tied;
  Optimizer optimizer;
  Data data;
  double share = 0.5;
  void fields(auto& f) {
    f("seed", seed, "of all that is random");
    f("shuffle", shuffle, "rows in random order");
    f("clip", clip, "largest gradient norm", positive);
    f("keep", keep, "checkpoints to keep", at_least(1));
    f("note", note, "free text");
    f("tied", tied, "one matrix for both ends");
    f("optimizer", optimizer, "how weights move");
    f("data", data, "what is read");
    f("share", share, "a part", within(0, 1));
  }
};

class ConfigTest : public testing::Test {
 protected:
  Config<Demo> read(const std::string& yaml, const std::vector<std::string>& sets = {}) {
    return read_config<Demo>(folder_.write("demo.yaml", yaml), sets, "pretrain");
  }
  // The message without the folder's name.
  std::string error(const std::string& yaml, const std::vector<std::string>& sets = {}) {
    std::string message = CONCLAVE_MESSAGE_OF(ConfigError, read(yaml, sets));
    size_t at = message.find(folder_.path() + '/');
    return at == std::string::npos ? message : message.erase(at, folder_.path().size() + 1);
  }
  TempFolder folder_;
};

}  // namespace conclave
