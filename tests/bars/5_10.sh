#!/usr/bin/env bash
# Bar 10 of issue #5: the demo trains on the GPU as it stands and ends within 1 % of the CPU's validation loss: CPU_LOSS, or the one of bar
# 3.2 in docs/bars.md. Its text lies in .cache/text (`make demo` fetches it). A minute of one GPU.
cd "$(dirname "$0")/../.." && . tests/bars/gpu.sh
need_gpu 5.10
[ -d .cache/text/sotu ] || { echo "bar 5.10 needs .cache/text/sotu, the demo's text; make demo fetches it"; exit 77; }
CPU_LOSS="${CPU_LOSS:-$(sed -n 's/^| 3\.2 .*met: \([0-9.]*\) nats a token.*/\1/p' docs/bars.md)}"
[ -n "$CPU_LOSS" ] || { echo "bar 5.10: docs/bars.md gives no loss of the CPU's demo; set CPU_LOSS"; exit 1; }

run=$(mktemp -d)
trap 'rm -r "$run"' EXIT
tokenizer=runs/demo-tokenizer
[ -f "$tokenizer/tokenizer.json" ] || "$CONCLAVE_BINARY" train-tokenizer configs/pretrain/demo_tokenizer.yaml || exit 1
"$CONCLAVE_BINARY" pretrain configs/pretrain/demo.yaml --set device=cuda --set output="$run/demo" --set data.cache="$run/tokens" ||
  verdict 5.10 "the demo on the GPU" 1
"$PYTHON" - "$run/demo/summary.json" "$CPU_LOSS" <<'END'
import json, sys
summary, cpu = json.load(open(sys.argv[1])), float(sys.argv[2])
loss, seconds = summary["final_validation_loss"], summary["seconds"]
print(f"validation loss {loss:.4f}, the CPU's {cpu:.4f}: {100 * (loss / cpu - 1):+.2f} %; {seconds:.0f} s on {summary['device']}")
sys.exit(not (summary["finished"] and abs(loss / cpu - 1) <= 0.01))
END
verdict 5.10 "the demo's loss on the GPU" $?
