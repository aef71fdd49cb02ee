// Dry runs: they make the calls that a real step makes, and those of published layouts agree
// between ranks and with closed forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>

#include "comm/dry_groups.h"
#include "parallel/dry_step.h"
#include "ranks/parity.h"
#include "ranks/rank.h"

namespace conclave::ranks {
namespace {

using comm::Ledger;
using comm::LedgerRow;
using comm::RankLayout;

// A group whose calls are written down as a dry one's are, and made.
class Recorded final : public comm::Comm {
 public:
  Recorded(std::unique_ptr<Comm> real, std::unique_ptr<Comm> dry)
      : real_(std::move(real)), dry_(std::move(dry)) {}
  int rank() const override { return real_->rank(); }
  int size() const override { return real_->size(); }
  void all_gather(at::Tensor out, const at::Tensor& in) override {
    dry_->all_gather(out, in), real_->all_gather(out, in);
  }
  void reduce_scatter(at::Tensor out, const at::Tensor& in) override {
    dry_->reduce_scatter(out, in), real_->reduce_scatter(out, in);
  }
  void all_reduce(at::Tensor x) override { dry_->all_reduce(x), real_->all_reduce(x); }
  void all_to_all(at::Tensor out, const at::Tensor& in, std::span<const int64_t> receive_rows,
                  std::span<const int64_t> send_rows) override {
    dry_->all_to_all(out, in, receive_rows, send_rows);
    real_->all_to_all(out, in, receive_rows, send_rows);
  }
  void barrier() override { dry_->barrier(), real_->barrier(); }

 private:
  std::unique_ptr<Comm> real_, dry_;
};

class RecordingFactory final : public comm::CommFactory {
 public:
  RecordingFactory(comm::CommFactory& real, Ledger& ledger)
      : real_(real), dry_(real.rank(), real.world(), ledger) {}
  int rank() const override { return real_.rank(); }
  int world() const override { return real_.world(); }
  std::unique_ptr<comm::Comm> make(const std::vector<int>& ranks,
                                   const std::string& name) override {
    return std::make_unique<Recorded>(real_.make(ranks, name), dry_.make(ranks, name));
  }

 private:
  comm::CommFactory& real_;
  comm::DryFactory dry_;
};

std::string text_of(const std::vector<LedgerRow>& rows) {
  std::string text;
  for (const LedgerRow& r : rows)
    text += r.group + " " + r.op + " " + r.dtype + " " + std::to_string(r.bytes) + "\n";
  return text;
}

// Rows that each of `ranks` gets of `tokens` under the balanced gate, whose token t names the 24
// experts from t · top_k on; 0 where they do not get the same number.
int64_t rows_each(int64_t tokens, int64_t top_k, int64_t ranks) {
  std::vector<int64_t> rows(static_cast<size_t>(ranks));
  for (int64_t t = 0; t < tokens; ++t) {
    std::set<int64_t> needed;
    for (int64_t j = 0; j < top_k; ++j) needed.insert((t * top_k + j) % 24 / (24 / ranks));
    for (int64_t rank : needed) ++rows[static_cast<size_t>(rank)];
  }
  const bool even = std::count(rows.begin(), rows.end(), rows[0]) == ranks;
  return even ? rows[0] : 0;
}

int64_t cuts_of(const RunSpec& run) {
  return run.policy.one_row_at_once ? kRows / run.layout.world() : 1;
}
int64_t tokens_of(const RunSpec& run) { return 8 * kRows / run.layout.world() / cuts_of(run); }

int64_t rows_of(const RunSpec& run) {
  const int64_t top_k = parallel::testing::make_tiny(run.family->config).layers.back().facts.top_k;
  return rows_each(tokens_of(run), top_k, run.layout.ep);
}

// The ledger of one step of a rank that is not there.
Ledger dry_ledger(const RunSpec& run, int rank, const std::set<std::string>& recompute) {
  Ledger ledger;
  comm::DryFactory factory(rank, run.layout.world(), ledger);
  const comm::Groups groups = comm::make_groups(run.layout, factory);
  nn::Decoder decoder = parallel::testing::make_tiny(
      run.family->config, {.expert_ranks = groups.ep->size(), .expert_rank = groups.ep->rank()});
  parallel::Units units(decoder, groups,
                        {.release_after_use = run.policy.release,
                         .device = at::kMeta,
                         .reduction = run.policy.reduction});
  const bool capacity = run.dispatcher == "all_to_all_capacity";
  comm::DryDispatcher dispatcher(*groups.ep, capacity ? run.highest_load().peer_rows : rows_of(run),
                                 capacity);
  parallel::dry_step(decoder, units, dispatcher,
                     {.tokens = tokens_of(run),
                      .micro_batches = cuts_of(run),
                      .run = {.recompute = recompute},
                      .capacity = capacity && run.layout.ep > 1});
  return ledger;
}

TEST(DryStep, MakesTheCallsOfARealStep) {
  int compared = 0;
  for (const Family& family : {families()[0], families()[1]})
    for (const RankLayout& layout :
         {RankLayout{1, 4, 4, 1}, RankLayout{2, 2, 2, 2}, RankLayout{2, 4, 8, 1},
          RankLayout{4, 1, 2, 1}, RankLayout{1, 2, 1, 1}})
      for (const Policy& policy : {Policy{}, Policy{.recompute = true, .release = true},
                                   Policy{.one_row_at_once = true,
                                   .release = true,
                                   .reduction = parallel::Reduction::all_to_all}}) {
        const char* dispatcher = compared % 2 ? "all_to_all_capacity" : "all_to_all";
        const RunSpec run{&family, layout, dispatcher, policy, nn::Gate::balanced};
        if (rows_of(run) == 0) continue;  // a dry rank gets as many rows as each of the others
        ++compared;
        std::vector<Ledger> real(static_cast<size_t>(layout.world()));
        comm::run_thread_ranks(layout.world(), [&](comm::CommFactory& factory) {
          RecordingFactory recording(factory, real[static_cast<size_t>(factory.rank())]);
          Rank rank(run, recording);
          rank.step(run);
        });
        for (int r = 0; r < layout.world(); ++r)
          ASSERT_EQ(text_of(dry_ledger(run, r,
                                       policy.recompute ? std::set<std::string>{"dispatch", "norm"}
                                                        : std::set<std::string>{})
                                .rows()),
                    text_of(real[static_cast<size_t>(r)].rows()))
              << run.text() << ", rank " << r;
      }
  EXPECT_GE(compared, 20);
}

struct Published {
  const char* name;
  nlohmann::json config;
  RankLayout layout;
  int64_t tokens, micro_batches;
  int64_t fan_out;  // ranks that a token needs under the published runs' gate
};

nlohmann::json qwen3_30b() {
  return {{"architectures", {"Qwen3MoeForCausalLM"}},
          {"hidden_size", 2048},
          {"num_hidden_layers", 48},
          {"vocab_size", 151936},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 4},
          {"head_dim", 128},
          {"intermediate_size", 6144},
          {"num_experts", 128},
          {"num_experts_per_tok", 8},
          {"moe_intermediate_size", 768},
          {"norm_topk_prob", true},
          {"max_position_embeddings", 4096}};
}

nlohmann::json gpt_oss_120b() {
  return {{"architectures", {"GptOssForCausalLM"}},
          {"hidden_size", 2880},
          {"num_hidden_layers", 36},
          {"vocab_size", 201088},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 8},
          {"head_dim", 64},
          {"attention_bias", true},
          {"sliding_window", 128},
          {"intermediate_size", 2880},
          {"num_local_experts", 128},
          {"num_experts_per_tok", 4},
          {"max_position_embeddings", 4096}};  // the tables of rotary angles are made all the same
}

struct Dry {
  std::vector<LedgerRow> rows;
  int64_t weights = 0, gradients = 0, gathered = 0, optimizer = 0;   // bytes of this rank
  int64_t dense = 0, dense_kept = 0, experts = 0, experts_kept = 0;  // elements, padded, and kept
};

// One rank's step in bf16, weights kept gathered between micro-batches.
Dry dry(const Published& p, int rank, int64_t rows) {
  Dry out;
  Ledger ledger;
  comm::DryFactory factory(rank, p.layout.world(), ledger);
  const comm::Groups groups = comm::make_groups(p.layout, factory);
  models::DecoderOptions options{.dtype = at::kBFloat16};
  options.share = {.expert_ranks = groups.ep->size(), .expert_rank = groups.ep->rank()};
  nn::Decoder decoder = models::make_decoder(p.config, p.name, options);
  parallel::Units units(decoder, groups, {.device = at::kMeta});
  comm::DryDispatcher dispatcher(*groups.ep, rows);
  parallel::dry_step(decoder, units, dispatcher,
                     {.tokens = p.tokens, .micro_batches = p.micro_batches});
  out.rows = ledger.rows();
  for (const auto& s : units.shards()) {
    const int64_t whole = s.unit->layout().padded(s.over->size());
    const bool experts = s.over == groups.ep_shard.get() && s.unit->name().ends_with(".experts");
    (experts ? out.experts : out.dense) += whole;
    (experts ? out.experts_kept : out.dense_kept) += s.range.size();
    out.weights += static_cast<int64_t>(s.weights.nbytes());
    out.gradients += 4 * whole;
    if (s.unit->trained()) out.optimizer += (2 * 4 + 2) * s.range.size();  // fp32 moments, low bits
    if (s.over->size() > 1) out.gathered += 2 * whole, out.gradients += 4 * s.range.size();
  }
  return out;
}

// Bytes of the ledger by group and operation.
std::map<std::string, int64_t> sums(const std::vector<LedgerRow>& rows) {
  std::map<std::string, int64_t> out;
  for (const LedgerRow& r : rows) out[r.group + " " + r.op] += r.bytes;
  return out;
}

// What the sizes say: every unit is gathered once a step in bf16 and reduced once in fp32; a layer
// sends its tokens' rows four times a micro-batch, routing weights and ids beside.
std::map<std::string, int64_t> closed_form(const Published& p, const Dry& d, int64_t rows) {
  const RankLayout& l = p.layout;
  const auto number = [&](const char* a, const char* b) {
    return p.config.contains(a) ? p.config[a].get<int64_t>() : p.config[b].get<int64_t>();
  };
  const int64_t layers = p.config["num_hidden_layers"], hidden = p.config["hidden_size"],
                top_k = p.config["num_experts_per_tok"],
                experts = number("num_experts", "num_local_experts"), sent = rows * l.ep;
  std::map<std::string, int64_t> want;
  const auto cut = [&](const std::string& group, int ranks, int64_t elements) {
    if (ranks == 1) return;
    want[group + " all_gather"] = 2 * elements;
    want[group + " reduce_scatter"] = 4 * elements;
  };
  cut("dp_shard", l.dp_shard, d.dense);
  cut("ep_shard", l.ep_shard(), d.experts);
  if (l.dp_replicate > 1) want["dp_replicate all_reduce"] = 4 * d.dense_kept;
  if (l.ep_replicate > 1) want["ep_replicate all_reduce"] = 4 * d.experts_kept;
  if (l.ep > 1)
    want["ep all_to_all"] =
        p.micro_batches * layers *
        (4 * sent * hidden * 2 + 2 * sent * top_k * 4 + sent * top_k * 4 + l.ep * 8);
  want["world all_reduce"] = 8 * (3 + 6 + 1) + layers * experts * 8;
  return want;
}

// All ranks of it, on two threads.
std::vector<Dry> dry_ranks(const Published& p, int64_t rows) {
  std::vector<Dry> all(static_cast<size_t>(p.layout.world()));
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t r = next++; r < all.size(); r = next++) all[r] = dry(p, static_cast<int>(r), rows);
  };
  std::thread other(work);
  work();
  other.join();
  return all;
}

// What each rank calls on each of its groups, by group and first member.
std::map<std::string, std::vector<std::string>> calls_by_group(const Published& p,
                                                               const std::vector<Dry>& all) {
  std::map<std::string, std::vector<std::string>> out;
  const comm::Mesh dense = p.layout.dense(), experts = p.layout.experts();
  for (int rank = 0; rank < p.layout.world(); ++rank) {
    std::map<std::string, std::string> calls;
    for (const LedgerRow& r : all[static_cast<size_t>(rank)].rows)
      calls[r.group] += r.op + " " + r.dtype + " " + std::to_string(r.bytes) + "\n";
    for (auto& [group, text] : calls) {
      const int first = group == "world"          ? 0
                        : group.starts_with("dp") ? dense.group(rank, group).front()
                                                  : experts.group(rank, group).front();
      out[group + " of " + std::to_string(first)].push_back(std::move(text));
    }
  }
  return out;
}

TEST(DryRun, PublishedLayoutsAgreeWithClosedForms) {
  const Published all[] = {{"Qwen3-30B", qwen3_30b(), {1, 8, 8, 1}, 4096, 4, 1},
                           {"GPT-OSS-120B", gpt_oss_120b(), {1, 64, 64, 1}, 4096, 1, 2},
                           {"GPT-OSS-120B", gpt_oss_120b(), {2, 64, 64, 2}, 4096, 1, 2},
                           {"GPT-OSS-120B", gpt_oss_120b(), {16, 64, 64, 1}, 4096, 1, 2}};
  for (const Published& p : all) {
    const int64_t rows = p.tokens * p.fan_out / p.layout.ep;
    const std::vector<Dry> ranks = dry_ranks(p, rows);
    for (const Dry& d : ranks) ASSERT_EQ(sums(d.rows), closed_form(p, d, rows)) << p.name;
    for (const auto& [group, ledgers] : calls_by_group(p, ranks))
      for (const std::string& text : ledgers) ASSERT_EQ(text, ledgers.front()) << p.name << group;
    const Dry& first = ranks.front();
    std::printf("%s on %d ranks (%s)\n", p.name, p.layout.world(), p.layout.text().c_str());
    std::printf(
        "  a rank: weights %.2f GB, gathered %.2f GB, gradients %.2f GB, optimizer %.2f GB\n",
        static_cast<double>(first.weights) / 1e9, static_cast<double>(first.gathered) / 1e9,
        static_cast<double>(first.gradients) / 1e9, static_cast<double>(first.optimizer) / 1e9);
    for (const auto& [what, bytes] : sums(first.rows))
      std::printf("  %-28s %10.3f GB a step\n", what.c_str(), static_cast<double>(bytes) / 1e9);
  }
}

}  // namespace
}  // namespace conclave::ranks
