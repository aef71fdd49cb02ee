#!/usr/bin/env python3
"""Draws a run's curves: `plot_curves.py RUN OUT.svg` reads RUN/metrics.jsonl and RUN/summary.json and writes training loss,
validation loss and, where the run fitted one, the bigram yardstick, over steps. Readable on light and on dark pages. Needs
nothing but Python."""

import json
import math
import pathlib
import sys

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 62, 128, 46, 48  # margins; the right one holds the curves' names
POINTS = 500  # at most, a curve

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #57606a }
  .title { font-size: 15px; font-weight: 600 } .grid { stroke: #8c959f; stroke-opacity: .28 } .axis { stroke: #8c959f }
  path { fill: none; stroke-linejoin: round }
  .raw { stroke: #4c8dd6; stroke-opacity: .30 } .train { stroke: #2f7fd1; stroke-width: 1.8 }
  .validation { stroke: #cf6a12; stroke-width: 2.4 } .dot { fill: #cf6a12 } .bigram { stroke: #8250df; stroke-width: 1.8; stroke-dasharray: 7 5 }
  text.train { fill: #2f7fd1; stroke: none } text.validation { fill: #cf6a12; stroke: none } text.bigram { fill: #8250df; stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #aab4c0 } .train { stroke: #6cb2ff } .raw { stroke: #6cb2ff } .validation { stroke: #ffa657 } .dot { fill: #ffa657 }
    .bigram { stroke: #c297ff } text.train { fill: #6cb2ff } text.validation { fill: #ffa657 } text.bigram { fill: #c297ff }
  }
"""


def read(run):
    """({step: training loss}, {step: validation loss}, summary); a line cut off by a kill and lines without a loss are left out."""
    train, validation = {}, {}
    for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line.get("loss"), (int, float)):
            train[line["step"]] = line["loss"]
        if isinstance(line.get("validation_loss"), (int, float)):
            validation[line["step"]] = line["validation_loss"]
    path = run / "summary.json"
    return train, validation, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def smooth(points):
    """Mean over the neighbours on both sides: few at the start, where the loss falls fast, more later."""
    out = []
    for i, (x, _) in enumerate(points):
        side = min(i // 8, len(points) // 40)
        near = points[i - side : i + side + 1]  # shorter at the end
        out.append((x, sum(y for _, y in near) / len(near)))
    return out


def thin(points):
    """Means of equal groups, so that at most POINTS are drawn."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def ticks(low, high, about):
    """Round numbers in [low, high]."""
    raw = (high - low) / about
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def apart(labels, distance=17):
    """Moves labels' heights apart, keeping their order: [(y, name, text)] → the same with new y."""
    labels = sorted(labels)
    for i in range(1, len(labels)):
        if labels[i][0] < labels[i - 1][0] + distance:
            labels[i] = (labels[i - 1][0] + distance, *labels[i][1:])
    return labels


def draw(train, validation, summary):
    raw = sorted(train.items())
    held = sorted(validation.items())
    bigram = summary.get("bigram_nats_per_token")
    smoothed = smooth(raw)
    last = max(x for x, _ in raw + held)
    shown = [y for _, y in held] + [y for x, y in smoothed if x >= last * 0.04] + ([bigram] if bigram else [])
    low, high = min(shown), max(shown)
    low, high = low - 0.06 * (high - low or 1), high + 0.04 * (high - low or 1)

    def x_of(step):
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y_of(loss):
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    def curve(points, name):
        return f'<path class="{name}" clip-path="url(#plot)" d="M' + " L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in points) + '"/>'

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">']
    out += [f"<title>{title(summary)}</title>", f"<style>{STYLE}</style>", f'<text class="title" x="{LEFT}" y="24">{title(summary)}</text>']
    out.append(f'<clipPath id="plot"><rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT}" height="{HEIGHT - TOP - BOTTOM}"/></clipPath>')
    marks = ticks(low, high, 6)
    digits = max(len(f"{t:.4g}".partition(".")[2]) for t in marks)
    for t in marks:
        out.append(f'<path class="grid" d="M{LEFT},{y_of(t):.1f} H{WIDTH - RIGHT}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{y_of(t) + 4:.1f}" text-anchor="end">{t:.{digits}f}</text>')
    for t in ticks(0, last, 6):
        out.append(f'<text x="{x_of(t):.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="middle">{t:,.0f}</text>')
    out.append(f'<path class="axis" d="M{LEFT},{TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT}"/>')
    out.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">step</text>')
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">loss, nats a token</text>')

    labels = []
    out.append(curve(thin(raw), "raw"))
    if bigram:
        out.append(curve([(0, bigram), (last, bigram)], "bigram"))
        labels.append((y_of(bigram), "bigram", f"bigram {bigram:.3f}"))
    out.append(curve(thin(smoothed), "train"))
    tail = [y for _, y in raw[-max(1, len(raw) // 40) :]]  # the last step alone says little
    ends = sum(tail) / len(tail)
    labels.append((y_of(ends), "train", f"training {ends:.3f}"))
    if held:
        out.append(curve(held, "validation"))
        out += [f'<circle class="dot" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="2.6"/>' for x, y in held]
        labels.append((y_of(held[-1][1]), "validation", f"validation {held[-1][1]:.3f}"))
    out += [f'<text class="{name}" x="{WIDTH - RIGHT + 8}" y="{y + 4:.1f}">{text}</text>' for y, name, text in apart(labels)]
    return "\n".join(out + ["</svg>", ""])


def title(summary):
    parts = []
    if "seconds" in summary:
        minutes = summary["seconds"] / 60
        parts.append(f"{minutes:.1f} minutes" if minutes >= 1 else f"{summary['seconds']:.0f} seconds")
    if summary.get("train_bytes"):
        parts.append(f"{summary['train_bytes'] / 1e6:.1f} MB of text")
    return "Loss of the run" + (f": {', '.join(parts)}" if parts else "")


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    train, validation, summary = read(pathlib.Path(sys.argv[1]))
    if not train:
        print(f"{sys.argv[1]}/metrics.jsonl: no line with a loss", file=sys.stderr)
        return 1
    out = pathlib.Path(sys.argv[2])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(draw(train, validation, summary), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
