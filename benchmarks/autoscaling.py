"""Replica-seconds of three autoscalers over recorded traces, at equal shares of requests with a first token in time.

    python benchmarks/autoscaling.py FOLDER [--half 1] [--stretch 2] [--orders 8]

FOLDER has `azure_llm_2023_code.csv.gz` (Azure/AzurePublicDataset, CC-BY-4.0: Patel et al., "Splitwise", ISCA 2024) and
`mooncake_synthetic_trace.jsonl.gz` (kvcache-ai/Mooncake, Apache-2.0: Qin et al., FAST 2025).

Each autoscaler is tried with as many targets, in equal ratios from one at which hardly anything waits to one at which
nearly everything does, and with the same three windows. For what each peer can do, the cheapest choice of ours that
serves at least the same share is beside it: nobody is beaten by a bad setting. First each peer has the window that it
has by default, then whichever of the three is best. `autoscaling_model.py` says what is simulated,
`autoscaling_scalers.py` how peers decide.

With `--orders N`: each choice is judged by its means over N traces, each the minutes of the Azure trace in an order by
chance. Which choice is best for one trace nobody knows before; this tells which one is good for traces of this kind.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import autoscaling_scalers as scalers
import autoscaling_traces as recorded
from autoscaling_foresight import Foresight, constants
from autoscaling_model import Ask, Replay, Result, Setting
from autoscaling_scalers import Choice
from rich.console import Console
from rich.table import Table

WINDOWS = (60.0, 300.0, 1200.0)
TARGETS = 40
ROWS = 8
"""Of a peer, at most."""
PIECE_S = 1200.0
"""For so long stays the number of whoever is told the best one beforehand."""
BLOCK_S = 60.0


def targets(least: float, most: float) -> list[float]:
    """So many for everybody, each the same ratio above the one before it."""
    return [least * (most / least) ** (i / (TARGETS - 1)) for i in range(TARGETS)]


PEERS = {
    "HPA, queue length": (scalers.hpa, targets(0.1, 24), 300.0),
    "KPA, concurrency": (scalers.kpa, targets(0.5, 40), 60.0),
}
"""How it decides, its targets, and the window that it has by default."""
OURS = targets(0.5, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", type=int, choices=(1, 2), help="only this half of each trace")
    parser.add_argument("--stretch", type=float, default=1.0, help="requests come in so many times the time")
    parser.add_argument("--orders", type=int, default=0, help="so many orders of the Azure trace's minutes instead")
    args = parser.parse_args()
    traces = {
        "Azure code 2023": (recorded.azure(args.folder), Setting(rate=4000.0, ttft_s=5.0, first=2)),
        "Mooncake": (recorded.mooncake(args.folder), Setting(rate=8000.0, ttft_s=10.0, first=4)),
    }
    if args.orders:
        asks, setting = traces["Azure code 2023"]
        orders = [recorded.reordered(asks, BLOCK_S, seed) for seed in range(args.orders)]
        compare(f"Azure code 2023, mean of {args.orders} orders of its minutes", orders, setting)
        return
    for name, (asks, setting) in traces.items():
        part = recorded.stretched(recorded.half(asks, args.half) if args.half else asks, args.stretch)
        compare(name, [part], setting)


def compare(name: str, traces: Sequence[Sequence[Ask]], setting: Setting) -> None:
    """Print what each peer does and what ours does for it; of several traces the means."""
    ours = scalers.frontier(traces, setting, scalers.argosy(setting), choices(OURS))
    theirs = {peer: scalers.frontier(traces, setting, make, choices(t)) for peer, (make, t, _) in PEERS.items()}
    alone = len(traces) == 1 and not traces[0][0].blocks
    ahead = constants(traces[0], setting, PIECE_S) if alone else []
    usual = {
        peer: {choice: result for choice, result in found.items() if choice[1] == PEERS[peer][2]}
        for peer, found in theirs.items()
    }
    show(f"{name}, first token within {setting.ttft_s:g} s; peers with their default windows", usual, ours, ahead)
    show(f"{name}, first token within {setting.ttft_s:g} s; peers with any window", theirs, ours, ahead)
    most = max(ours.values(), key=lambda r: r.within)
    print(f"ours at its best: {100 * most.within:.1f} % for {most.replica_seconds:,.0f}")
    least = min(ours.values(), key=lambda r: r.replica_seconds)
    share, cost = f"{100 * least.within:.1f} %", f"{least.replica_seconds:,.0f}"
    print(f"ours at its cheapest: {share} for {cost}, of which prompts took {least.computing_s:,.0f}")
    if alone:
        known = Replay(traces[0], setting, Foresight(traces[0], setting, patience=1.0)).run()
        print(f"who knows what comes: {100 * known.within:.1f} % for {known.replica_seconds:,.0f}")
    print(flush=True)


def show(
    title: str,
    theirs: Mapping[str, Mapping[Choice, Result]],
    ours: Mapping[Choice, Result],
    ahead: Sequence[tuple[float, float]],
) -> None:
    """One table; `ahead` as of `constants`."""
    table = Table(title=title)
    names = ["peer", "its target, window", "in time", "replica-seconds", "ours", "in time", "replica-seconds", "saved"]
    for column in [*names, "a fifth less", "who knows"] if ahead else names:
        table.add_column(column, justify="right")
    for peer, found in theirs.items():
        for choice, result in worth_showing(found):
            best = scalers.cheapest(ours, result.within)
            cells = [peer, *told(choice, result)]
            cells += [*told(*best), f"{100 * best[1].saved(result):.1f} %"] if best is not None else [""] * 4
            if ahead:
                known = min((cost for share, cost in ahead if share >= result.within), default=float("nan"))
                cells += [f"{0.8 * result.replica_seconds:,.0f}", f"{known:,.0f}"]
            table.add_row(*cells)
    Console(width=150).print(table)


def choices(tried: Sequence[float]) -> list[Choice]:
    return [(target, window) for window in WINDOWS for target in tried]


def worth_showing(found: Mapping[Choice, Result]) -> list[tuple[Choice, Result]]:
    """The choices that no other one beats in both, from the best share on down, one for each few per cent."""
    shown: list[tuple[Choice, Result]] = []
    for choice, result in sorted(found.items(), key=lambda item: (-item[1].within, item[1].replica_seconds)):
        if not shown or (
            result.replica_seconds < shown[-1][1].replica_seconds and result.within < shown[-1][1].within - 0.03
        ):
            best = scalers.cheapest(found, result.within)
            shown.append(best if best is not None else (choice, result))
    return shown[:ROWS]


def told(choice: Choice, result: Result) -> list[str]:
    target, window = choice
    return [f"{target:.3g}, {window:g} s", f"{100 * result.within:.1f} %", f"{result.replica_seconds:,.0f}"]


if __name__ == "__main__":
    main()
