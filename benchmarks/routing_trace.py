"""The Mooncake trace as prompts: one token for each 64 of the trace, a block of 512 becomes one of 8.

The trace: FAST25-release/traces/synthetic_trace.jsonl of github.com/kvcache-ai/Mooncake (Apache-2.0); a line has
`timestamp` (ms), `input_length`, `output_length` and `hash_ids`, one for each 512 tokens of the prompt.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from routing_model import Ask, Outcome

TRACE_TOKENS = 64
BLOCK = 8


def load(path: Path, *, pace: float, limit: int | None = None) -> list[Ask]:
    """The first `limit` requests, `pace` times as fast as they were recorded."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        rows = [json.loads(line) for line in lines if line.strip()][:limit]
    return [
        Ask(row["timestamp"] / 1000 / pace, prompt(row["hash_ids"], -(-row["input_length"] // TRACE_TOKENS)))
        for row in rows
    ]


def prompt(hashes: Sequence[int], length: int) -> list[int]:
    """Token ids: equal hashes give equal blocks, others others."""
    tokens = [byte for block in hashes for byte in block.to_bytes(BLOCK, "little")]
    return tokens[:length]


def ideal_hit_rate(asks: Sequence[Ask], fleet_blocks: int) -> float:
    """With one cache of the whole fleet's size that every request could use, oldest first out."""
    held: dict[tuple[int, ...], None] = {}
    hits = total = 0
    for ask in asks:
        chain: tuple[int, ...] = ()
        ids = []
        for start in range(0, len(ask.tokens) - BLOCK + 1, BLOCK):
            chain = (hash((chain, tuple(ask.tokens[start : start + BLOCK]))),)
            ids.append(chain)
        usable = ids[: (len(ask.tokens) - 1) // BLOCK]
        found = next((n for n, block in enumerate(usable) if block not in held), len(usable))
        hits += found * BLOCK
        total += len(ask.tokens)
        for block in reversed(ids):
            held.pop(block, None)
            held[block] = None
        while len(held) > fleet_blocks:
            del held[next(iter(held))]
    return hits / total


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Hit rate, and percentiles of the time to first token in milliseconds."""
    times = [o.ttft * 1e3 for o in outcomes]
    hit = sum(o.cached for o in outcomes) / sum(o.prompt for o in outcomes)
    return {"hit": hit, **{f"p{p}": percentile(times, p / 100) for p in (50, 90, 99)}, "max": max(times)}
