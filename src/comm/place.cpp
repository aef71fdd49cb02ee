#include "comm/place.h"

#include <charconv>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"

namespace conclave::comm {
namespace {

class Reader {
 public:
  Reader(const Environment& environment, std::string launcher)
      : environment_(environment), launcher_(std::move(launcher)) {}

  const char* text(const char* name) const {
    const char* value = environment_(name);
    return value && *value ? value : nullptr;
  }
  int number(const char* name, int least) const {
    const char* value = text(name);
    if (!value) throw ConfigError(missing(name));
    int n = 0;
    const char* end = value + std::strlen(value);
    const auto [rest, error] = std::from_chars(value, end, n);
    if (error != std::errc{} || rest != end || n < least)
      throw ConfigError(format("%s: expected a whole number of at least %d (from %s), got `%s`",
                               name, least, launcher_.c_str(), value));
    return n;
  }
  int number_or(const char* name, int least, int otherwise) const {
    return text(name) ? number(name, least) : otherwise;
  }
  std::string missing(const char* name) const {
    return std::string(name) + " is not set, though this process seems to be a rank of " +
           launcher_ + "; set it, or start the ranks with conclave launch";
  }

 private:
  const Environment& environment_;
  std::string launcher_;
};

// A port that all ranks of a job come to without asking each other.
int port_of(const char* job) {
  return 20000 + static_cast<int>(xxh3(std::as_bytes(std::span(job, std::strlen(job)))) % 10000);
}

void find_store(const Reader& read, Place& p, const std::string& first_host, const char* job) {
  const bool one_host = p.local_world == p.world;
  if (const char* host = read.text("MASTER_ADDR"))
    p.store_host = host;
  else
    p.store_host = one_host ? "127.0.0.1" : first_host;
  if (p.store_host.empty()) throw ConfigError(read.missing("MASTER_ADDR"));
  if (!read.text("MASTER_PORT") && job)
    p.store_port = port_of(job);
  else
    p.store_port = read.number("MASTER_PORT", 1);
  p.serves_store = p.rank == 0;
}

Place of_torchrun(const Environment& environment) {
  const Reader read(environment, "torchrun");
  Place p{.rank = read.number("RANK", 0), .world = read.number("WORLD_SIZE", 1)};
  p.local_rank = read.number_or("LOCAL_RANK", 0, p.rank);
  p.local_world = read.number_or("LOCAL_WORLD_SIZE", 1, p.world);
  const char* launcher = read.text("CONCLAVE_LAUNCHER");
  p.launcher = launcher ? launcher : "torchrun";
  find_store(read, p, "", nullptr);
  const char* agent = read.text("TORCHELASTIC_USE_AGENT_STORE");
  if (agent && std::strcmp(agent, "True") == 0) p.serves_store = false;
  if (const char* attempt = read.text("TORCHELASTIC_RESTART_COUNT"))
    p.store_prefix = std::string("/conclave/attempt_") + attempt;
  return p;
}

Place of_open_mpi(const Environment& environment) {
  const Reader read(environment, "mpirun");
  Place p{.rank = read.number("OMPI_COMM_WORLD_RANK", 0),
          .world = read.number("OMPI_COMM_WORLD_SIZE", 1),
          .local_rank = read.number("OMPI_COMM_WORLD_LOCAL_RANK", 0),
          .local_world = read.number("OMPI_COMM_WORLD_LOCAL_SIZE", 1),
          .launcher = "mpirun"};
  const char* job = read.text("PMIX_NAMESPACE");
  find_store(read, p, "", job ? job : read.text("OMPI_MCA_ess_base_jobid"));
  return p;
}

Place of_pmi(const Environment& environment) {
  const Reader read(environment, "mpirun");
  Place p{.rank = read.number("PMI_RANK", 0),
          .world = read.number("PMI_SIZE", 1),
          .launcher = "mpirun"};
  p.local_rank = read.number_or("MPI_LOCALRANKID", 0, p.rank);
  p.local_world = read.number_or("MPI_LOCALNRANKS", 1, p.world);
  find_store(read, p, "", nullptr);
  return p;
}

// SLURM_STEP_TASKS_PER_NODE "4(x2),3": the first node's count stands for all.
int tasks_per_node(const Reader& read, int otherwise) {
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"})
    if (const char* text = read.text(name)) {
      int n = 0;
      if (std::from_chars(text, text + std::strlen(text), n).ec == std::errc{} && n > 0) return n;
    }
  return otherwise;
}

Place of_slurm(const Environment& environment) {
  const Reader read(environment, "srun");
  Place p{.rank = read.number("SLURM_PROCID", 0),
          .world = read.number("SLURM_NTASKS", 1),
          .local_rank = read.number("SLURM_LOCALID", 0),
          .launcher = "srun"};
  p.local_world = std::min(p.world, tasks_per_node(read, p.world));
  const char* nodes = read.text("SLURM_STEP_NODELIST");
  if (!nodes) nodes = read.text("SLURM_JOB_NODELIST");
  find_store(read, p, nodes ? first_host(nodes) : "", read.text("SLURM_JOB_ID"));
  return p;
}

}  // namespace

std::string first_host(const std::string& nodes) {
  const size_t open = nodes.find('['), comma = nodes.find(',');
  if (open == std::string::npos || comma < open) return nodes.substr(0, comma);
  const size_t end = nodes.find_first_of("-,]", open + 1);
  if (end == std::string::npos) return nodes.substr(0, open);
  const size_t close = nodes.find(']', open);
  const size_t next = nodes.find(',', close);
  const std::string suffix =
      close == std::string::npos
          ? ""
          : nodes.substr(close + 1, next == std::string::npos ? next : next - close - 1);
  return nodes.substr(0, open) + nodes.substr(open + 1, end - open - 1) + suffix;
}

std::optional<Place> place_from(const Environment& environment) {
  const Reader read(environment, "");
  std::optional<Place> p;
  if (read.text("RANK") && read.text("WORLD_SIZE"))
    p = of_torchrun(environment);
  else if (read.text("OMPI_COMM_WORLD_RANK"))
    p = of_open_mpi(environment);
  else if (read.text("PMI_RANK"))
    p = of_pmi(environment);
  else if (read.text("SLURM_PROCID") && read.text("SLURM_STEP_ID") && read.text("SLURM_NTASKS"))
    p = of_slurm(environment);
  if (!p) return p;
  if (p->rank >= p->world)
    throw ConfigError(format("%s says that this is rank %d of %d; expected a rank below that",
                             p->launcher.c_str(), p->rank, p->world));
  return p;
}

}  // namespace conclave::comm
