"""What was found, as a table in Markdown and as JSON. Pure."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from argosy_cli.bench.figures import Figures, figures, ratio
from argosy_cli.bench.sweep import Found

HEADERS = (
    "at once", "server", "requests", "TTFT p50 ms", "p95", "ITL p50 ms", "p99", "TPOT ms", "tokens/s", "requests/s",
    "cached",
)  # fmt: skip


def rows(found: Found) -> Iterator[tuple[int, int, Figures]]:
    """Level, number of the server, and its figures."""
    for level, by_server in found.rounds.items():
        for number, rounds in enumerate(by_server):
            yield level, number, figures(rounds)


def markdown(found: Found) -> str:
    """What was asked, the table, the ratios to a peer, and what failed."""
    lines = [_asked(found), "", _row(HEADERS), _row(["---"] * len(HEADERS))]
    failures: list[str] = []
    for level, number, one in rows(found):
        server = found.servers[number]
        numbers = (one.ttft_p50, one.ttft_p95, one.itl_p50, one.itl_p99, one.tpot, one.tokens_per_second)
        lines.append(
            _row([
                str(level), server.label, _count(one), *map(_figure, numbers), f"{one.requests_per_second:.2f}",
                f"{one.cached:.0%}",
            ])
        )  # fmt: skip
        failures += [f"* {server.label}, {level} at once: {reason}" for reason in one.failures]
    lines += ["", *_ratios(found)]
    if failures:
        lines += ["", "Failed requests, which count in no figure:", "", *failures]
    return "\n".join(lines).rstrip() + "\n"


def document(found: Found) -> str:
    """The same for programs, with each request."""
    servers = [{"url": s.url, "model": s.model, "fields": s.extras} for s in found.servers]
    levels = [
        {
            "at_once": level,
            "server": number,
            "figures": asdict(one),
            "rounds": [asdict(round_) for round_ in found.rounds[level][number]],
        }
        for level, number, one in rows(found)
    ]
    return json.dumps({"asked": asdict(found.plan), "servers": servers, "levels": levels}, indent=1) + "\n"


def _asked(found: Found) -> str:
    plan = found.plan
    kind = "chat" if plan.wanted.chat else "completions"
    shared = f", of which {plan.shared:.0%} are common" if plan.shared else ""
    of = ", ".join(server.label for server in found.servers)
    return (
        f"{of}: {kind}, about {plan.prompt_tokens} prompt tokens{shared}, {plan.wanted.output_tokens} generated; "
        f"{plan.rounds} rounds, in turn."
    )


def _ratios(found: Found) -> list[str]:
    if len(found.servers) < 2:
        return []
    ours, peer = found.servers
    told = []
    for level, (mine, theirs) in found.rounds.items():
        one = ratio(mine, theirs)
        if one is not None:
            told.append(f"{level} at once {one.middle:.2f} ({one.least:.2f} to {one.most:.2f})")
    return [f"Tokens/s of {ours.label} over {peer.label}, median of the rounds (least to most): {'; '.join(told)}."]


def _count(one: Figures) -> str:
    return f"{one.requests - one.failed} of {one.requests}" if one.failed else str(one.requests)


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
