#!/usr/bin/env bash
# Bar 7 of issue #6: a world of one costs nothing. The demo's CPU step, and where there is a GPU eight layers of Qwen3-30B's rank proxy, by
# this program and by an older one, in three alternated runs: at most 1.02 × as long. On the CPU the older is from before units were cut
# over groups of ranks (two commits of the time, joined: either lacks something); on a GPU that one ended before its first step, so there it is
# the first that ran the whole proxy, from before slots, lanes and capacities. OLD_BINARY names another; else they are built in
# build/before. Wants the machine for itself; arguments: cpu, gpu (default: what is there). After `make build`; needs the demo's text.
cd "$(dirname "$0")/../.." && . tests/bars/bar.sh
declare -A commits=(
  [cpu]="25d04bcfb981d58be3f6a40cf7c97014531dd9a8 85f0fa20a29394b6741e05c52d2dd791b997deef"
  [gpu]="27b9981239f433ab317a391f0a227d6d6833f034"
)
[ -d .cache/text/sotu ] || { echo "bar 6.7 needs .cache/text/sotu, the demo's text; make demo fetches it"; exit 77; }

old_program() { # cpu|gpu: sets `old`
  local first then before="$PWD/build/before/$1"
  old="${OLD_BINARY:-$before/build/release/conclave}"
  [ ! -x "$old" ] || return 0
  read -r first then <<<"${commits[$1]}"
  for commit in $first $then; do
    git cat-file -e "$commit^{commit}" || { echo "bar 6.7: this clone has no commit $commit; name a program in OLD_BINARY"; exit 77; }
  done
  if [ ! -d "$before" ]; then
    git worktree add --detach "$before" "$first" || return
    [ -z "$then" ] || git -C "$before" -c user.name=bar -c user.email=bar merge -q --no-commit --no-ff -X ours "$then" || return
  fi
  mkdir -p "$before/.cache/setup"
  ln -sfn "$PWD/.venv" "$before/.venv"
  sed "s|$PWD/|$before/|g" .cache/setup/env >"$before/.cache/setup/env"
  "$before/tools/build.sh" release conclave >"$before/build.log" 2>&1 || { tail -n 20 "$before/build.log"; return 1; }
}
run=$(mktemp -d)
trap 'rm -r "$run"' EXIT
tokenizer=runs/demo-tokenizer
[ -f "$tokenizer/tokenizer.json" ] || "$CONCLAVE_BINARY" train-tokenizer configs/pretrain/demo_tokenizer.yaml || exit 1
kinds=("$@")
if [ ${#kinds[@]} = 0 ]; then
  kinds=(cpu)
  nvidia-smi -L >/dev/null 2>&1 && kinds+=(gpu)
fi

# cpu|gpu SIDE PROGRAM ROUND: leaves the seconds of its steps in $run/KIND.SIDE.ROUND, a line each.
cpu() {
  local out="$run/demo.$1.$3"
  CUDA_VISIBLE_DEVICES='' "$2" pretrain configs/pretrain/demo.yaml --set steps="${STEPS:-120}" --set schedule.warmup_steps=10 \
    --set validation.every=0 --set validation.bigram=false --set checkpoint.every=0 --set output="$out" --set data.cache="$run/tokens" \
    >"$out.log" 2>&1 || { tail -n 5 "$out.log"; return 1; }
  sed -n '21,$s/.*"seconds": *\([0-9.e-]*\).*/\1/p' "$out/metrics.jsonl" >"$run/cpu.$1.$3"
}
gpu() {
  local out="$run/proxy.$1.$3"
  "$2" benchmark configs/benchmark/qwen3_moe_30b.yaml --set device=cuda --set layers=8 --set 'recompute=[norm]' --set memory_limit=none \
    --set batch.rows=8 --set batch.micro_rows=2 --set warmup=3 --set steps=8 --set output="$out.json" >"$out.log" 2>&1 ||
    { tail -n 5 "$out.log"; return 1; }
  "$PYTHON" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["seconds_of_steps"], sep="\n")' "$out.json" >"$run/gpu.$1.$3"
}

status=0
for kind in "${kinds[@]}"; do
  old_program "$kind" || { status=1; continue; }
  for round in 1 2 3; do
    "$kind" before "$old" $round && "$kind" now "$CONCLAVE_BINARY" $round || status=1
  done
  [ $status = 0 ] && "$PYTHON" - "$run" "$kind" <<'END' || status=1
import pathlib, statistics, sys
run, kind = pathlib.Path(sys.argv[1]), sys.argv[2]
steps = {side: [[float(x) for x in (run / f"{kind}.{side}.{r}").read_text().split()] for r in (1, 2, 3)] for side in ("before", "now")}
medians = {side: [statistics.median(s) for s in rounds] for side, rounds in steps.items()}
ratio = statistics.median(medians["now"]) / statistics.median(medians["before"])
for side, ms in medians.items():
    print(f"  {kind}, {side}: " + ", ".join(f"{1e3 * m:.2f}" for m in ms) + f" ms a step (medians of {len(steps[side][0])})")
print(f"  {kind}: {ratio:.3f} × as long (limit 1.020)")
sys.exit(ratio > 1.02)
END
done
verdict 6.7 "a world of one costs nothing (${kinds[*]})" $status
