"""Bar 1 of issue 6, its other half: five faults that parallel training is prone to are planted in a copy of the sources, each behind a
value of CONCLAVE_PLANTED, and the tests of tests/ranks and tests/comm are run with each: `planted_faults.py [FOLDER]` (build/planted).
Prints the tests that failed and what they saw. Exit status 0 if without a fault all pass and with each some fail."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLANTED = """
#include <cstdlib>
#include <cstring>
static bool planted(const char* name) {
  const char* chosen = std::getenv("CONCLAVE_PLANTED");
  return chosen && std::strcmp(chosen, name) == 0;
}
"""
# name, what it is, file, the text that is there, what stands there with the fault.
FAULTS = [
    ("divided", "an expert's gradient divided by the group", "src/parallel/units.cpp",
     "at::Tensor Units::squared_gradient_norm() const {",
     """static void divide_experts(std::vector<Shard>& shards) {
  for (auto& s : shards)
    if (planted("divided") && s.unit->trained() && s.unit->name().ends_with(".experts")) s.grad.div_(s.over->size());
}
at::Tensor Units::squared_gradient_norm() const {
  divide_experts(const_cast<Units*>(this)->shards_);"""),
    ("norm", "a clip norm that misses a group: of the experts, those of one rank", "src/parallel/units.cpp",
     "s.replicas->rank() == 0) ops::add_squared_sum_",
     """s.replicas->rank() == 0 &&
        !(planted("norm") && s.unit->name().ends_with(".experts") && world_.rank() != 0)) ops::add_squared_sum_"""),
    ("load", "a load counted twice where the backward recomputes", "src/train/step.cpp",
     "    add_figures(g, decoder, batch, mtp_weight);\n",
     """    add_figures(g, decoder, batch, mtp_weight);
    if (planted("load") && !run.recompute.empty()) add_loads(g.loads, decoder, batch);
"""),
    ("wait", "a wait left out: a rank goes on while others read what it brought", "src/comm/threads.cpp",
     "    meeting_.finish(rank_);", """    if (!planted("wait")) meeting_.finish(rank_);"""),
    ("ids", "ids routed again in recompute", "src/parallel/layer_run.cpp",
     "[&dispatcher = dispatcher_, x, layout = layout_] {\n",
     """[&dispatcher = dispatcher_, x, layout = layout_, ids = routed_.ids, experts = layer_.facts.experts] {
    if (planted("ids")) return dispatcher.dispatch(dispatcher.prepare(ids, experts), x.get());
"""),
]
TESTS = [("ranks_test", "-*Matrix*"), ("comm_test", "*")]


def copy_with_faults(folder):
    for name in subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        to = folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.exists() or to.read_bytes() != (ROOT / name).read_bytes():
            shutil.copy(ROOT / name, to)
    # Under its own root the compiler cache knows what the tree has compiled.
    (folder / ".cache/setup").mkdir(parents=True, exist_ok=True)
    (folder / ".cache/setup/env").write_text((ROOT / ".cache/setup/env").read_text().replace(str(ROOT), str(folder)))
    for there in (ROOT / ".venv", *(p for p in (ROOT / ".cache/setup").iterdir() if p.name != "env")):
        link = folder / there.relative_to(ROOT)
        if not link.exists():
            link.symlink_to(there.resolve())
    for path in {file for _, _, file, _, _ in FAULTS}:
        text = (ROOT / path).read_text()
        for _, what, file, there, instead in FAULTS:
            if file != path:
                continue
            if text.count(there) != 1:
                sys.exit(f"{file}: expected once, to plant {what}: {there.strip()}")
            text = text.replace(there, instead)
        at = text.index("\nnamespace conclave")
        (folder / path).write_text(text[:at] + PLANTED + text[at:])


def failures(folder, planted):
    """Lines "test: what it saw first" of the tests that fail."""
    found, crashed = [], []
    for program, chosen in TESTS:
        command = [folder / "build/release/tests" / program, f"--gtest_filter={chosen}"]
        try:
            done = subprocess.run(command, env=os.environ | {"CONCLAVE_PLANTED": planted, "OMP_NUM_THREADS": "1"}, cwd=folder,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=300)
        except subprocess.TimeoutExpired:
            crashed.append(f"{program}: did not end within 300 s")
            continue
        said = done.stdout
        for name in dict.fromkeys(re.findall(r"^\[  FAILED  \] (\w+\.\w+)", said, re.M)):
            part = said[said.index(f"[ RUN      ] {name}"):said.index(f"[  FAILED  ] {name}")]
            lines = [line.strip() for line in part.splitlines() if line.strip() and not line.startswith("[ RUN")]
            told = [line for line in lines if line.split(" ")[0] not in ("Failed", "Expected", "Which") and "Failure" not in line]
            changed = [line for line in lines[lines.index("With diff:"):] if re.match(r"[-+]\w", line)] if "With diff:" in lines else []
            found.append(f"{name}: {' | '.join(changed[:2] or told[:1])[:220]}")
        if done.returncode < 0:
            last = re.findall(r"^\[ RUN      \] (\S+)", said, re.M)
            crashed.append(f"{last[-1] if last else program}: ended by signal {-done.returncode}")
    return found + crashed


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build/planted").resolve()
    copy_with_faults(folder)
    subprocess.run([folder / "tools/build.sh", "release", *(program for program, _ in TESTS)], check=True)
    good = True
    for name, what, *_ in [("none", "no fault")] + FAULTS:
        found = failures(folder, name)
        good = good and bool(found) == (name != "none")
        print(f"{what}: {'caught by' if found else 'no test fails'}", flush=True)
        for line in found:
            print(f"    {line}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
