#include "recipes/dry_run.h"

#include <cstdio>

#include "base/files.h"
#include "base/human.h"
#include "base/text.h"
#include "plan/memory.h"
#include "plan/one_token.h"
#include "recipes/dry_ranks.h"
#include "recipes/measure.h"
#include "recipes/model_io.h"
#include "recipes/shape.h"

namespace conclave::recipes {

int print_dry_run(const PretrainConfig& c, const ConfigSource& source, const ModelChoice& choice,
                  at::Device device, const std::string& config_path, const std::string& svg) {
  const nn::Decoder decoder = describe_model(choice.config, choice.from,
                                             {.dtype = parse_dtype(c.dtype, "dtype"),
                                              .coefs = router_coefs(c.model),
                                              .places = choice.places,
                                              .mtp = choice.mtp_weight != 0});
  const plan::ModelShape shape = shape_of(decoder);
  const auto parameters = plan::parameters(shape);
  std::printf("# %s, effective\n%s\n", config_path.c_str(), dump_config(c).c_str());
  std::printf("# %s\n", decoder.architecture.c_str());
  std::printf("parameters  %s, of which a token meets %s\n",
              parameter_count(parameters.total).c_str(),
              parameter_count(parameters.active).c_str());
  if (parameters.mtp)
    std::printf("            %s more of multi-token prediction\n",
                parameter_count(parameters.mtp).c_str());
  std::printf("\n# FLOPs of a token, forward and backward, in rows of %lld\n%s\n",
              static_cast<long long>(c.data.seq_len),
              flops_table(plan::flops_per_token(shape, c.data.seq_len)).c_str());
  const std::optional<DryRanks> ranks = dry_ranks(c, source, choice, decoder);
  PretrainConfig of_rank = c;
  if (ranks) {
    of_rank.batch.rows = c.batch.rows / ranks->layout.world();
    of_rank.batch.micro_rows = rows_at_once(c, ranks->layout.world());
  }
  plan::MemoryForecast memory = forecast(of_rank, shape, device, expected_data_bytes(c));
  if (ranks) memory = memory_of(*ranks, memory);
  std::printf("# Memory%s%s, of %s that are free\n%s\n", device.is_cuda() ? " of the GPU" : "",
              ranks ? " for a rank" : "",
              human_bytes(static_cast<double>(free_memory(device))).c_str(),
              memory.table().c_str());
  if (ranks) std::fputs(ranks_page(*ranks).c_str(), stdout);
  if (!svg.empty()) {
    if (!ranks)
      throw ConfigError(
          "--svg: a picture is of several ranks; set parallel.dp_replicate or parallel.dp_shard, "
          "or start as many (conclave launch -n N)");
    const std::string model =
        decoder.architecture + " of " + parameter_count(parameters.total) + " parameters";
    write_file_atomic(svg, plan::rank_picture_svg(picture_of(*ranks, model)));
  }
  const plan::TokenRun run{
      .config = config_path,
      .model_file = decoder.model_file,
      .rows = c.batch.micro_rows,
      .row_length = c.data.seq_len,
      .micro_batches = (c.batch.rows + c.batch.micro_rows - 1) / c.batch.micro_rows};
  std::fputs(plan::one_token_page(shape, run).c_str(), stdout);
  return 0;
}

}  // namespace conclave::recipes
