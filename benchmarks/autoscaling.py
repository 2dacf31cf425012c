"""Replica-seconds of three autoscalers over recorded traces, at equal shares of requests with a first token in time.

    python benchmarks/autoscaling.py FOLDER

FOLDER has `azure_llm_2023_code.csv.gz` (Azure/AzurePublicDataset, CC-BY-4.0: Patel et al., "Splitwise", ISCA 2024) and
`mooncake_synthetic_trace.jsonl.gz` (kvcache-ai/Mooncake, Apache-2.0: Qin et al., FAST 2025).

Each autoscaler is tried with as many targets, in equal ratios from one at which hardly anything waits to one at which
nearly everything does, and with the same three windows. For what each peer can do, the cheapest choice of ours that
serves at least the same share is beside it: nobody is beaten by a bad setting. `autoscaling_model.py` says what is
simulated, `autoscaling_scalers.py` how peers decide.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import autoscaling_scalers as scalers
from autoscaling_foresight import Foresight
from autoscaling_model import Ask, Replay, Result, Setting
from rich.console import Console
from rich.table import Table


def azure(folder: Path) -> list[Ask]:
    with gzip.open(folder / "azure_llm_2023_code.csv.gz", "rt", newline="") as file:
        rows = [
            (datetime.fromisoformat(r["TIMESTAMP"][:26]), int(r["ContextTokens"]), int(r["GeneratedTokens"]))
            for r in csv.DictReader(file)
        ]
    return [Ask((at - rows[0][0]).total_seconds(), tokens, answer) for at, tokens, answer in rows]


def mooncake(folder: Path) -> list[Ask]:
    with gzip.open(folder / "mooncake_synthetic_trace.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [Ask(r["timestamp"] / 1000, r["input_length"], r["output_length"], tuple(r["hash_ids"])) for r in rows]


WINDOWS = (60.0, 300.0, 1200.0)
TARGETS = 40
ROWS = 8
"""Of a peer, at most."""


def targets(least: float, most: float) -> list[float]:
    """So many for everybody, each the same ratio above the one before it."""
    return [least * (most / least) ** (i / (TARGETS - 1)) for i in range(TARGETS)]


PEERS = {
    "HPA, queue length": (scalers.hpa, targets(0.1, 24)),
    "KPA, concurrency": (scalers.kpa, targets(0.5, 40)),
}
OURS = targets(0.5, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    traces = {
        "Azure code 2023": (azure(folder), Setting(rate=4000.0, ttft_s=5.0, first=2)),
        "Mooncake": (mooncake(folder), Setting(rate=8000.0, ttft_s=10.0, first=4)),
    }
    for name, (asks, setting) in traces.items():
        ours = scalers.frontier(asks, setting, scalers.argosy(setting), choices(OURS))
        table = Table(title=f"{name}: replica-seconds, and share of first tokens within {setting.ttft_s:g} s")
        for column in (
            "peer",
            "its target, window",
            "replica-seconds",
            "in time",
            "ours: target, window",
            "",
            "",
            "saved",
        ):
            table.add_column(column, justify="right")
        for peer, (make, tried) in PEERS.items():
            theirs = scalers.frontier(asks, setting, make, choices(tried))
            for choice, result in worth_showing(theirs):
                best = scalers.cheapest(ours, result.within)
                cells = [peer, label(choice), f"{result.replica_seconds:,.0f}", f"{100 * result.within:.1f} %"]
                if best is not None:
                    mine = best[1]
                    cells += [label(best[0]), f"{mine.replica_seconds:,.0f}", f"{100 * mine.within:.1f} %"]
                    cells.append(f"{100 * mine.saved(result):.0f} %")
                table.add_row(*cells)
        Console(width=150).print(table)
        most = max(ours.values(), key=lambda r: r.within)
        print(f"ours at its best: {100 * most.within:.1f} % for {most.replica_seconds:,.0f}")
        least = min(ours.values(), key=lambda r: r.replica_seconds)
        share, cost = f"{100 * least.within:.1f} %", f"{least.replica_seconds:,.0f}"
        print(f"ours at its cheapest: {share} for {cost}, of which prompts took {least.computing_s:,.0f}")
        if not asks[0].blocks:
            ahead = Replay(asks, setting, Foresight(asks, setting, patience=1.0)).run()
            print(f"who knows what comes: {100 * ahead.within:.1f} % for {ahead.replica_seconds:,.0f}")
        print()


def choices(tried: Sequence[float]) -> list[scalers.Choice]:
    return [(target, window) for window in WINDOWS for target in tried]


def worth_showing(found: dict[scalers.Choice, Result]) -> list[tuple[scalers.Choice, Result]]:
    """The choices that no other one beats in both, from the best share on down, one for each few per cent."""
    shown: list[tuple[scalers.Choice, Result]] = []
    for choice, result in sorted(found.items(), key=lambda item: (-item[1].within, item[1].replica_seconds)):
        if not shown or (
            result.replica_seconds < shown[-1][1].replica_seconds and result.within < shown[-1][1].within - 0.03
        ):
            best = scalers.cheapest(found, result.within)
            shown.append(best if best is not None else (choice, result))
    return shown[:ROWS]


def label(choice: scalers.Choice) -> str:
    return f"{choice[0]:.3g}, {choice[1]:g} s"


if __name__ == "__main__":
    main()
