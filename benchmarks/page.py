"""Writes the page of all benchmarks, with tables and plots, from their results."""

import json
import sys
from html import escape
from typing import Any

from measurement import RESULTS

BAR_HEIGHT, LABEL_WIDTH, BAR_WIDTH, NUMBER_WIDTH = 22, 190, 420, 110
OWN = "#2f6f9f"
OTHER = "#b8b8b8"


def bars(title: str, numbers: dict[str, float], unit: str) -> str:
    """Draw a bar for each number, those of this project in colour.

    Args:
        title: The title.
        numbers: The numbers, by name.
        unit: Their unit.

    Returns:
        The drawing as SVG.
    """
    largest = max(numbers.values())
    height = BAR_HEIGHT * (len(numbers) + 1) + 8
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_WIDTH + BAR_WIDTH + NUMBER_WIDTH}" '
            f'height="{height}" font-family="sans-serif" font-size="12">'
        ),
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="4" y="15" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (name, number) in enumerate(sorted(numbers.items(), key=lambda pair: pair[1]), start=1):
        top = row * BAR_HEIGHT
        width = max(1.0, BAR_WIDTH * number / largest)
        parts += [
            f'<text x="{LABEL_WIDTH - 6}" y="{top + 15}" text-anchor="end">{escape(name)}</text>',
            (
                f'<rect x="{LABEL_WIDTH}" y="{top + 3}" width="{width:.1f}" height="{BAR_HEIGHT - 6}" '
                f'fill="{OWN if name.startswith("d9d") else OTHER}"/>'
            ),
            f'<text x="{LABEL_WIDTH + width + 5:.1f}" y="{top + 15}">{number:,.0f} {unit}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def read(name: str) -> dict[str, Any] | None:
    """Return the result of a benchmark, if it has been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def draw(name: str, title: str, numbers: dict[str, float], unit: str) -> str:
    """Write a drawing, and return the line of the page that shows it."""
    (RESULTS / f"{name}.svg").write_text(bars(title, numbers, unit), encoding="utf-8")
    return f"![{title}]({name}.svg)"


def conditions(result: dict[str, Any]) -> str:
    """Describe the machine, and what was left out."""
    described = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    skipped = "; ".join(f"{name} ({reason})" for name, reason in result["skipped"].items())
    return f"Measured with {described}." + (f" Skipped: {skipped}." if skipped else "")


def _at_most(bound: float | None, number: float, form: str) -> str:
    """Return the bound of a number in brackets, if there is one, and whether it is missed."""
    return "" if bound is None else f" (≤ {bound:{form}}{', missed' if number > bound else ''})"


def bus(result: dict[str, Any]) -> list[str]:
    """Return the section on the bus."""
    cases = result["cases"]
    names = list(dict.fromkeys(name.split(", ")[0] for name in cases))
    counts = list(dict.fromkeys(name.split(", ")[1] for name in cases))

    def cell(name: str, count: str) -> str:
        case = cases.get(f"{name}, {count}")
        if case is None:
            return ""
        at_most = _at_most(result["bounds"].get(f"{name}, {count}"), case["ratio"], ".2f")
        return f"{case['least']:,.0f} · {case['ratio']:.2f}{at_most}"

    shown = {
        {"emitter": "d9d, emitter", "trigger": "d9d", "bounded": "d9d, bounded"}.get(name, name): cases[f"{name}, 4"][
            "least"
        ]
        for name in names
        if f"{name}, 4" in cases
    }
    return [
        "## The bus",
        "",
        (
            "The cost of triggering an event that has 0, 1, 4 or 16 handlers, each of which counts its calls: "
            "nanoseconds · ratio to a `for` loop over the same handlers. In brackets, the bound. The loops of this "
            "project use emitters. `bounded` has that many handlers on each side of its block. `filter` has handlers "
            "that are subscribed with `every=10` and are not due, and `facts` builds a context with five fields for "
            "its handlers; these two are compared with the same by hand."
        ),
        "",
        f"| | {' | '.join(counts)} |",
        f"|---|{'---|' * len(counts)}",
        *(f"| {name} | {' | '.join(cell(name, count) for count in counts)} |" for name in names),
        "",
        draw("bus", "One event, four handlers", shown, "ns"),
        "",
        conditions(result),
    ]


def loop(result: dict[str, Any]) -> list[str]:
    """Return the section on the loops."""
    cases = result["cases"]
    rows = []
    for name, case in cases.items():
        at_most = _at_most(result["bounds"].get(name), case["over"], ".0f")
        rows.append(f"| {name} | {case['least']:.0f} | {case['median']:.0f} | {case['over']:+.1f}{at_most} |")
    trained = {name.removeprefix("train, "): case["least"] for name, case in cases.items() if name.startswith("train")}
    trained["by hand"] = trained.pop("train by hand")
    return [
        "## The loop",
        "",
        (
            "Microseconds per step of a small network (64-64-1, batches of 8, SGD) on one thread, with a handler for "
            "every event of a step. In brackets, the bound. The loops of this project give the same weights and "
            "outputs as the loops by hand, bit for bit, which each run checks."
        ),
        "",
        "| | least | median | over by hand |",
        "|---|---|---|---|",
        *rows,
        "",
        *_compare_with_peers(result),
        draw("loop", "A step of training", trained, "µs"),
        "",
        conditions(result),
    ]


def _compare_with_peers(result: dict[str, Any]) -> list[str]:
    """Say which loops must be as fast as another one, and whether they are."""
    over = {name: case["over"] for name, case in result["cases"].items()}
    lines = []
    for name, peer in result["peer_bounds"].items():
        if peer in over:
            verdict = "holds" if over[name] <= over[peer] else "is missed"
            lines += [
                f"*{name}* must take at most as long as *{peer}*. This {verdict}: {over[name] - over[peer]:+.1f}.",
                "",
            ]
    return lines


def startup(result: dict[str, Any]) -> list[str]:
    """Return the section on the first step."""
    rows = []
    for name, case in result["cases"].items():
        at_most = _at_most(result["bounds"].get(name), case["over"], ".2f")
        rows.append(
            f"| {name} | {case['least']:.2f} | {case['over']:+.2f}{at_most} | {case['median_over']:+.2f} | "
            f"{case['over_mib']:+.0f} |"
        )
    return [
        "## The first step",
        "",
        (
            "Seconds of CPU, user and system, from the start of the process to the end of the first step of a small "
            "training job: a network of two layers, batches of 8, AdamW, one thread, no checkpoints, no logs. This "
            "includes importing torch. All jobs have the same loss after the step, which each run checks. The last "
            "column is peak memory."
        ),
        "",
        "| | least | over by hand | median over by hand | MiB over by hand |",
        "|---|---|---|---|---|",
        *rows,
        "",
        conditions(result),
    ]


def gpu(result: dict[str, Any]) -> list[str]:
    """Return the section on accelerators."""
    if "cases" not in result:
        return ["## On a GPU", "", f"No run on a GPU has been made: {'; '.join(result['skipped'].values())}."]
    bounds = result["bounds"]
    rows = [
        f"| {name} | {case['by_hand']:,.0f} | {case['own']:,.0f} | {case['ratio']:.4f} ± {case['error']:.4f} | "
        f"{_cell(case, 'idle', '.2%')} | {_cell(case, 'gap', ',.0f')} | {_cell(case, 'memory', ',.0f')} |"
        for name, case in result["cases"].items()
    ]
    rows += [f"| {name} | failed: {reason.splitlines()[0]} | | | | | |" for name, reason in result["failed"].items()]
    return [
        "## On a GPU",
        "",
        (
            "Tokens per second of a Transformer of about 125 million parameters in bf16, with blocks of steps of both "
            "loops in turn; the ratio has the interval of 95% of its blocks. Then what the loops of this project add "
            "to the loops by hand: idle time of the stream that computes, as a share of a step, and bytes of memory of "
            "the device. The longest gap is that of this project, in microseconds. In brackets, the bounds."
        ),
        "",
        (
            f"| | by hand | d9d | ratio (≥ {bounds['ratio']}) | idle (≤ {bounds['idle']:.1%}) | longest gap | "
            f"memory (≤ {bounds['memory']:,}) |"
        ),
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        conditions(result),
    ]


def _cell(case: dict[str, float], key: str, form: str) -> str:
    return format(case[key], form) if key in case else "–"


def main() -> int:
    """Write the page."""
    lines = [
        "<!-- Written by `make bench`. -->",
        "",
        "# How fast it is",
        "",
        (
            "CPU time, on one thread. The cases run in a new random order each round. *Least* is the least disturbed "
            "of all rounds. Each run checks that the measured code did what it should. On other pages: "
            "[the compiler](codegen.md) and [the mypy plugin](mypy.md)."
        ),
    ]
    for name, section in (("bus", bus), ("loop", loop), ("startup", startup), ("gpu", gpu)):
        result = read(name)
        if result is not None:
            lines += ["", *section(result)]
    (RESULTS / "README.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
