# What the scripts of issue #5's bars share: sourced from the repository's root. They need a GPU and a release build with CUDA
# (`tools/gpu.sh build`). Each run of `conclave benchmark` leaves NAME.json and NAME.log in $OUT (default build/bars); one of the last
# half hour, by this program with the same settings, is not made again, so that bars that look at one run share it.
. tests/bars/bar.sh
export OUT="${OUT:-$PWD/build/bars}"
mkdir -p "$OUT"

# need_gpu BAR: leaves with 77 where the bar cannot be measured.
need_gpu() {
  nvidia-smi -L >/dev/null 2>&1 || { echo "bar $1 needs a GPU, and none is here"; exit 77; }
  [ -x "$CONCLAVE_BINARY" ] || { echo "bar $1 needs $CONCLAVE_BINARY; run: tools/gpu.sh build"; exit 77; }
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
}

fresh() { [ "$1" -nt "$CONCLAVE_BINARY" ] && [ -n "$(find "$1" -mmin -30 -size +0)" ]; }

# measure NAME MODEL SETTING...: `conclave benchmark configs/benchmark/MODEL.yaml` with each SETTING after --set.
measure() {
  local name="$1" setting sets=() said="# conclave benchmark configs/benchmark/$2.yaml"
  for setting in device=cuda "${@:3}"; do
    sets+=(--set "$setting")
    said+=" --set '$setting'"
  done
  fresh "$OUT/$name.json" && [ "$(head -n 1 "$OUT/$name.log")" = "$said" ] && return
  rm -f "$OUT/$name.json"
  echo "$said" | tee "$OUT/$name.log"
  "$CONCLAVE_BINARY" benchmark "configs/benchmark/$2.yaml" "${sets[@]}" --set "output=$OUT/$name.json" >>"$OUT/$name.log" 2>&1
  local code=$?
  [ $code = 0 ] && [ -f "$OUT/$name.json" ] && return
  echo "it left with status $code:"
  tail -n 15 "$OUT/$name.log"
  return 1
}

# figures VERB ARGUMENT...: prints and judges what runs left in $OUT (tests/bars/benchmark_figures.py).
figures() { "$PYTHON" tests/bars/benchmark_figures.py "$@"; }

# peer MODEL:MICRO_ROWS: transformers' layers, once for each, into $OUT/peer_MODEL_MICRO_ROWS.json.
peer() {
  local file="$OUT/peer_${1/:/_}.json"
  ! fresh "$file" || return 0
  "$PYTHON" bench/peer_layers.py --adam "$1" >"$file" 2>"${file%.json}.log" && return
  echo "bench/peer_layers.py --adam $1 failed:"
  tail -n 15 "${file%.json}.log"
  rm -f "$file"
  return 1
}
