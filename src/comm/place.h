// Which rank this process is and where the ranks meet, as its launcher says in the environment.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace conclave::comm {

struct Place {
  int rank = 0, world = 1;
  int local_rank = 0, local_world = 1;  // among the ranks of this host
  std::string launcher;                 // e.g. "torchrun"
  std::string store_host;               // where the store of all ranks listens
  int store_port = 0;
  bool serves_store = false;  // this rank opens it; else the launcher or rank 0 does
  std::string store_prefix;   // of all keys: another one for each restart
};

// A variable's value, or null. std::getenv is one.
using Environment = std::function<const char*(const char* name)>;

// Read in this order, the first that is set wins; nothing if none is:
//   RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE   torchrun and `conclave launch`. With
//       TORCHELASTIC_USE_AGENT_STORE=True the launcher has the store, else rank 0
//   OMPI_COMM_WORLD_RANK, …_SIZE, …_LOCAL_RANK, …_LOCAL_SIZE   mpirun of Open MPI
//   PMI_RANK, PMI_SIZE; MPI_LOCALRANKID, MPI_LOCALNRANKS       mpirun of MPICH and Intel MPI
//   SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID; SLURM_STEP_NODELIST or SLURM_JOB_NODELIST   srun
// MASTER_ADDR and MASTER_PORT say where the store is. Without them: with ranks on one host
// 127.0.0.1, under srun the first node; a port made from the job's id. A single process of a batch
// job (SLURM_NTASKS is 1, or no SLURM_STEP_ID) is no rank. Throws ConfigError for a variable that
// is missing or makes no sense.
std::optional<Place> place_from(const Environment& environment);

// "node[03-05,9],x" → "node03".
std::string first_host(const std::string& slurm_nodes);

}  // namespace conclave::comm
