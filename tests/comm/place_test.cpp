#include "comm/place.h"

#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "cases.h"

namespace conclave::comm {
namespace {

std::optional<Place> place(const std::map<std::string, std::string>& set) {
  return place_from([&](const char* name) {
    const auto found = set.find(name);
    return found == set.end() ? nullptr : found->second.c_str();
  });
}

TEST(Place, AloneIsNoRank) { EXPECT_FALSE(place({{"PATH", "/bin"}, {"RANK", ""}})); }

TEST(Place, Torchrun) {
  std::map<std::string, std::string> set{{"RANK", "5"},        {"WORLD_SIZE", "8"},
                                         {"LOCAL_RANK", "1"},  {"LOCAL_WORLD_SIZE", "4"},
                                         {"MASTER_ADDR", "a"}, {"MASTER_PORT", "29500"}};
  auto p = place(set);
  ASSERT_TRUE(p);
  EXPECT_EQ(p->rank, 5);
  EXPECT_EQ(p->world, 8);
  EXPECT_EQ(p->local_rank, 1);
  EXPECT_EQ(p->local_world, 4);
  EXPECT_EQ(p->launcher, "torchrun");
  EXPECT_EQ(p->store_host, "a");
  EXPECT_EQ(p->store_port, 29500);
  EXPECT_FALSE(p->serves_store);
  set["RANK"] = "0";
  EXPECT_TRUE(place(set)->serves_store);
  set["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  set["TORCHELASTIC_RESTART_COUNT"] = "2";
  set["CONCLAVE_LAUNCHER"] = "conclave launch";
  EXPECT_FALSE(place(set)->serves_store);
  EXPECT_EQ(place(set)->store_prefix, "/conclave/attempt_2");
  EXPECT_EQ(place(set)->launcher, "conclave launch");
}

TEST(Place, OpenMpi) {
  const std::map<std::string, std::string> set{{"OMPI_COMM_WORLD_RANK", "3"},
                                               {"OMPI_COMM_WORLD_SIZE", "4"},
                                               {"OMPI_COMM_WORLD_LOCAL_RANK", "3"},
                                               {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                                               {"PMIX_NAMESPACE", "1234567"}};
  const auto p = place(set);
  ASSERT_TRUE(p);
  EXPECT_EQ(p->rank, 3);
  EXPECT_EQ(p->store_host, "127.0.0.1");
  EXPECT_GE(p->store_port, 20000);
  EXPECT_LT(p->store_port, 30000);
  auto spread = set;
  spread["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
  EXPECT_EQ(message_of([&] { place(spread); }),
            "MASTER_ADDR is not set, though this process seems to be a rank of mpirun; set it, or "
            "start the ranks with conclave launch");
  spread["MASTER_ADDR"] = "first";
  EXPECT_EQ(place(spread)->store_host, "first");
}

TEST(Place, Mpich) {
  const auto p = place({{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MASTER_PORT", "4000"}});
  ASSERT_TRUE(p);
  EXPECT_EQ(p->rank, 1);
  EXPECT_EQ(p->local_rank, 1);
  EXPECT_EQ(p->store_port, 4000);
}

TEST(Place, Srun) {
  std::map<std::string, std::string> set{{"SLURM_PROCID", "9"},
                                         {"SLURM_NTASKS", "16"},
                                         {"SLURM_LOCALID", "1"},
                                         {"SLURM_STEP_ID", "0"},
                                         {"SLURM_JOB_ID", "77"},
                                         {"SLURM_STEP_TASKS_PER_NODE", "8(x2)"},
                                         {"SLURM_STEP_NODELIST", "gpu[07-08]"}};
  const auto p = place(set);
  ASSERT_TRUE(p);
  EXPECT_EQ(p->rank, 9);
  EXPECT_EQ(p->local_world, 8);
  EXPECT_EQ(p->store_host, "gpu07");
  EXPECT_EQ(p->launcher, "srun");
  set.erase("SLURM_STEP_ID");
  EXPECT_FALSE(place(set));  // a plain process of a batch script
}

TEST(Place, RefusesWhatMakesNoSense) {
  EXPECT_EQ(message_of([] {
              place({{"RANK", "1x"}, {"WORLD_SIZE", "2"}});
            }),
            "RANK: expected a whole number of at least 0 (from torchrun), got `1x`");
  EXPECT_EQ(message_of([] {
              place({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_PORT", "1"}});
            }),
            "torchrun says that this is rank 2 of 2; expected a rank below that");
  EXPECT_THROW(place({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), ConfigError);  // no MASTER_PORT
}

TEST(Place, FirstHostOfANodeList) {
  EXPECT_EQ(first_host("node1"), "node1");
  EXPECT_EQ(first_host("node1,node2"), "node1");
  EXPECT_EQ(first_host("node[03-05,9],x"), "node03");
  EXPECT_EQ(first_host("a,node[1-2]"), "a");
  EXPECT_EQ(first_host("rack[7,9]-n"), "rack7-n");
}

}  // namespace
}  // namespace conclave::comm
