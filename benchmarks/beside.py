"""Runs one benchmark of this checkout and of another one in turn, and compares the figures that both print.

    python benchmarks/beside.py OTHER_CHECKOUT [--rounds 5] [-- smoke.py --quick --no-peer]

Each side runs with its own virtual environment (`.venv`), A B B A A B ..., so that a machine whose speed drifts harms
neither. A figure is a row of a printed table: its name is the first cell, its value the first number after it.
"""

import argparse
import re
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_PARTS = re.compile(r"\([^()]*\)")  # units and what varies; not part of a figure's name


def figures(text: str) -> dict[str, float]:
    """Name and value of each row of the tables in `text`."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"[│┃|]", line) if cell.strip()]
        value = _NUMBER.match(cells[1]) if len(cells) > 1 else None
        if value:
            found[_PARTS.sub("", cells[0]).strip()] = float(value.group().replace(",", ""))
    return found


def run(checkout: Path, command: list[str]) -> dict[str, float]:
    """One run of the benchmark in `checkout`."""
    python = checkout / ".venv/bin/python"
    script = [str(python), str(checkout / "benchmarks" / command[0]), *command[1:]]
    done = subprocess.run(script, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(script)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return figures(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    mine, _, command = " ".join(sys.argv[1:]).partition(" -- ")
    options = parser.parse_args(mine.split())
    sides = {"other": options.other.resolve(), "here": ROOT}
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for turn in range(options.rounds):
        for side in sorted(sides, reverse=bool(turn % 2)):
            print(f"round {turn + 1}/{options.rounds}, {side} ...", flush=True)
            seen[side].append(run(sides[side], command.split() or ["smoke.py", "--quick", "--no-peer"]))
    table = Table("figure (medians)", "other", "here", "here / other, median of the rounds", "least - most")
    for name in seen["here"][0]:
        pairs = [
            (o[name], h[name]) for o, h in zip(seen["other"], seen["here"], strict=True) if name in o and name in h
        ]
        if not pairs:
            continue
        ratios = [h / o if o else float("nan") for o, h in pairs]
        other, here = (statistics.median(values) for values in zip(*pairs, strict=True))
        spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
        table.add_row(name, f"{other:g}", f"{here:g}", f"{statistics.median(ratios):.3f}", spread)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
