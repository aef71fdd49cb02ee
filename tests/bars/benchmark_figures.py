#!/usr/bin/env python3
"""Prints and judges what `conclave benchmark` and its peers left in $OUT, for the scripts of issue #5's bars.

    get NAME KEY                  a figure of NAME.json
    speed NAME [AT_LEAST]         rates; of GEMM at least so much
    layers NAME PEER [shown]      forward and backward of the layers beside a peer's: at least as fast, or only shown
    cost NAME BASE[,...] AT_MOST  how much slower a step is
    parts NAME SUM REST           time by part: apart from the step by at most SUM, the rest at most REST of it
    waits NAME GAPS               host syncs a step: none; idle at most GAPS of the step
    same NAME BASE                the same losses to the bit
    memory NAME WITHIN            the peak beside its forecast
    beside NAME ALONE SERIAL      delays in dispatches, hidden: a step of at most 1.15 of the longer of the step ALONE, without them, and
                                  their sum; in NAME.trace.json other streams' kernels run during them. SERIAL: nothing beside them
    kernels FILE AT_LEAST         memory-bound kernels (kernels_bench) against a copy of as many bytes
    start SECONDS COMMAND...      from launch to the end of the first step, at the second launch

Exit status 0 if it holds, 1 if not.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

OUT = pathlib.Path(os.environ.get("OUT", "build/bars"))
AROUND_LAYERS = ("embedding", "head and loss", "optimizer", "batch", "zero gradients", "dispatch, stand-in", "combine, stand-in")
REST = ("the rest", "gaps")  # what no part launched, and the GPU idle
AT_START = ("fill_normal",)  # kernels that no step runs


class Missing(Exception):
    pass


class Results(dict):
    def __missing__(self, key):
        raise Missing(f"the results have no `{key}`")


def read(name):
    path = OUT / f"{name}.json"
    if not path.exists():
        raise Missing(f"{path} is not there: the run before it failed")
    return json.loads(path.read_text(), object_hook=Results)


def gib(n):
    return f"{n / 2**30:.2f} GiB"


def judged(holds, what):
    print(f"  {'ok  ' if holds else 'FAIL'} {what}", flush=True)
    return holds


def get(name, key):
    print(read(name)[key])
    return True


def speed(name, at_least="0"):
    r = read(name)
    print(
        f"  {name} on {r['device']}: {r['layers']} layers, {r['micro_rows']} sequences at once, {r['seconds_per_step']:.3f} s/step, "
        f"{r['tokens_per_second']:.0f} tokens/s, {r['model_tflops']:.1f} model TFLOP/s of a GEMM's {r['gemm_tflops']:.1f}, "
        f"peak {gib(r['peak_memory_bytes'])}, forecast {gib(r['forecast_memory_bytes'])}"
    )
    return judged(r["of_gemm"] >= float(at_least), f"{name}: {r['of_gemm']:.3f} of GEMM" + (f", at least {at_least}" if at_least != "0" else ""))


def layers(name, peer, shown=""):
    r, p = read(name), read(peer)
    out = {n: s for n, s in r["parts"].items() if n in AROUND_LAYERS}
    tokens = r["tokens_per_second"] * r["seconds_per_step"]
    ours = (sum(r["parts"].values()) - sum(out.values())) / tokens / r["layers"]
    theirs = p["seconds_per_layer_and_token"]
    print(f"  {p['peer']}: {p['layers']} layers, {p['micro_rows']} sequences at once, attention {p['attention']}")
    print(f"    {p['model_tflops']:.1f} model TFLOP/s, {p['of_gemm']:.3f} of GEMM ({p['gemm_tflops']:.1f}); whole steps with Adam {p['step_of_gemm']:.3f}")
    print("    it differs: " + "; ".join(p["differences"]))
    print("    not counted of ours: " + ", ".join(f"{n} {s * 1e3:.1f} ms" for n, s in out.items()))
    micro_batch = tokens * r["micro_rows"] / r["rows"] * 1e3
    said = f"a layer's forward and backward of {r['micro_rows']} sequences: {ours * micro_batch:.3f} ms, theirs {theirs * micro_batch:.3f} ms"
    said = f"{name}: {said}: {theirs / ours:.3f} times as fast"
    if shown == "shown":
        print(f"       {said}")
        return True
    return judged(ours <= theirs, said)


def cost(name, base, at_most):
    """`base` may be several runs, A,B, made before and after: the card's clock moves by a percent within minutes."""
    r, bases = read(name), [read(b) for b in base.split(",")]
    b = bases[0]
    for key in ("layers", "micro_rows"):
        if any(r[key] != other[key] for other in bases):
            return judged(False, f"{name} and {base} differ in {key}: {r[key]} and {', '.join(str(other[key]) for other in bases)}")
    seconds = sum(other["seconds_per_step"] for other in bases) / len(bases)
    more = r["seconds_per_step"] / seconds - 1
    said = f"{r['seconds_per_step']:.3f} s/step against {seconds:.3f}, {r['layers']} layers, {r['micro_rows']} at once"
    again = f"; made again: {', '.join(r['recompute']) or 'nothing'} against {', '.join(b['recompute']) or 'nothing'}"
    return judged(more <= float(at_most), f"{name}: {100 * more:+.2f} %, at most {100 * float(at_most):.0f} % ({said}{again})")


def parts(name, apart, rest):
    r = read(name)
    step, table = r["seconds_per_step"], r["parts"]
    possible = r["possible"]
    for part, seconds in sorted(table.items(), key=lambda row: -row[1]):
        beside = f"{possible[part] * 1e3:10.1f} ms possible{100 * possible[part] / seconds:7.1f} %" if part in possible else ""
        print(f"    {part:28}{seconds * 1e3:10.1f} ms{100 * seconds / step:7.1f} %{beside}")
    total, others = sum(table.values()), sum(table.get(part, 0) for part in REST)
    good = judged(abs(total / step - 1) <= float(apart), f"{name}: the parts are {total:.3f} s of a step's {step:.3f} s, {100 * (total / step - 1):+.1f} %")
    return judged(others <= float(rest) * step, f"{name}: the rest is {100 * others / step:.1f} %, at most {100 * float(rest):.0f} %") and good


def waits(name, gaps):
    r = read(name)
    calls = ", ".join(f"{n:g} {call}" for call, n in r["host_waits"].items())
    good = judged(r["host_waits_per_step"] == 0, f"{name}: the host waits {r['host_waits_per_step']:g} times a step" + (f": {calls}" if calls else ""))
    return judged(r["gaps"] <= float(gaps), f"{name}: idle for {100 * r['gaps']:.2f} % of a step, at most {100 * float(gaps):.0f} %") and good


def same(name, base):
    r, b = read(name), read(base)
    equal = r["losses"] == b["losses"]
    return judged(equal, f"{name}: {len(r['losses'])} losses are {'equal to the bit' if equal else 'not equal'} to those of {base}")


def memory(name, within):
    r = read(name)
    ratio = r["peak_memory_bytes"] / r["forecast_memory_bytes"]
    said = f"{name}: peak {gib(r['peak_memory_bytes'])}, forecast {gib(r['forecast_memory_bytes'])}, {100 * (ratio - 1):+.1f} %"
    return judged(abs(ratio - 1) <= float(within), f"{said}, within {100 * float(within):.0f} %")


def kernels(file, at_least):
    rows = [json.loads(line, object_hook=Results) for line in (OUT / file).read_text().splitlines() if line.startswith("{")]
    rows = [row for row in rows if "kernel" in row and not row["kernel"].startswith(AT_START)]
    slow = sorted((row for row in rows if row["of_copy"] < float(at_least)), key=lambda row: row["of_copy"])
    for row in slow:
        print(f"    {row['kernel']:56}{row['us']:9.1f} µs  {row['of_copy']:.2f} of a copy")
    return judged(rows and not slow, f"{len(rows) - len(slow)} of {len(rows)} memory-bound kernels reach {at_least} of a copy")


def hidden_share(name):
    """Of the time of delays, that in which kernels of other streams ran. A delay ends where the kernel begins that stands for the
    transfer: the first of its part, on its stream."""
    delays = {f"{way}, stand-in": us for way, us in read(name)["delay"].items() if us > 0}
    kernels = [e for e in json.loads((OUT / f"{name}.trace.json").read_text()) if e.get("ph") == "X" and e["tid"] >= 2]
    spans = sorted((e["ts"], e["ts"] + e["dur"], e["tid"]) for e in kernels)
    hidden = total = 0
    for transfer in (e for e in kernels if e["cat"] in delays):
        end, total = transfer["ts"], total + delays[transfer["cat"]]
        at = end - delays[transfer["cat"]]
        for begin, until, stream in spans:
            if begin >= end:
                break
            if until > at and stream != transfer["tid"]:
                hidden += min(until, end) - max(begin, at)
                at = min(until, end)
    return hidden / total if total else 0


def beside(name, alone, serial):
    with_delays, without, in_turn = read(name), read(alone), read(serial)
    delays, least = with_delays["delays_per_step"], without["seconds_per_step"]
    took, limit = with_delays["seconds_per_step"], 1.15 * max(least, delays)
    share = hidden_share(name)
    print(f"    alone {1e3 * least:.1f} ms, delays {1e3 * delays:.1f} ms; one after the other {1e3 * in_turn['seconds_per_step']:.1f} ms")
    said = f"{name}: {1e3 * took:.1f} ms, {took / max(least, delays):.3f} of the longer of the two"
    good = judged(delays > 0 and took <= limit, f"{said}, at most 1.15; peak {gib(with_delays['peak_memory_bytes'])}")
    return judged(share >= 0.8, f"{name}: other streams' kernels run during {100 * share:.0f} % of the delays' time, at least 80 %") and good


def start(seconds, *command):
    for launch in ("first", "second"):
        begin = time.monotonic()
        took, last = None, []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout:
                last = [*last[-14:], line]
                if line.startswith("step 1/"):
                    took = time.monotonic() - begin
                    process.terminate()
                    break
        if took is None:
            print("".join(last), end="")
            return judged(False, f"the {launch} launch left with status {process.returncode}")
        print(f"    {launch} launch: {took:.2f} s to the end of the first step")
    return judged(took < float(seconds), f"{took:.2f} s, under {seconds} s")


VERBS = {f.__name__: f for f in (get, speed, layers, cost, parts, waits, same, memory, beside, kernels, start)}


def main():
    if len(sys.argv) < 3 or sys.argv[1] not in VERBS:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return 0 if VERBS[sys.argv[1]](*sys.argv[2:]) else 1
    except Missing as missing:
        print(f"  FAIL {' '.join(sys.argv[1:3])}: {missing}", file=sys.stderr if sys.argv[1] == "get" else sys.stdout)
        return 1


if __name__ == "__main__":
    sys.exit(main())
