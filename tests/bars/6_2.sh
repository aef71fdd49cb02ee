#!/usr/bin/env bash
# Bar 2 of issue 6: Gloo processes, 2, 4 and 8 ranks, fp32: losses and gradients within 1e-5 of one rank, started by each launcher
# (conclave launch, torchrun, mpirun; srun by its environment), and gone on with by torchrun where a rank was killed. After `make build` and the tests' programs.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
export CONCLAVE_RANK_CASES="${CONCLAVE_RANK_CASES:-$PWD/build/release/tests/rank_cases}"
status=0
command -v mpirun >/dev/null || { echo "     mpirun is missing (apt-get install openmpi-bin)"; status=1; }
"$PYTHON" -c "import torch.distributed.run" || { echo "     torchrun is missing (make test brings it)"; status=1; }
"$PYTHON" tests/dist/values_test.py 2 4 8 || status=1
"$PYTHON" tests/dist/pretrain_test.py --only parity --ranks 2 4 8 --launchers launch torchrun mpirun srun || status=1
"$PYTHON" tests/dist/pretrain_test.py --only restart || status=1
verdict 6.2 "processes over Gloo against one rank" $status
