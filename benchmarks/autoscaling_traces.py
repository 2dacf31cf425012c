"""The recorded traces, and what else can be made of them: parts, other speeds, their minutes in another order."""

import csv
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from autoscaling_model import Ask


def azure(folder: Path) -> list[Ask]:
    """`azure_llm_2023_code.csv.gz` of Azure/AzurePublicDataset."""
    with gzip.open(folder / "azure_llm_2023_code.csv.gz", "rt", newline="") as file:
        rows = [
            (datetime.fromisoformat(r["TIMESTAMP"][:26]), int(r["ContextTokens"]), int(r["GeneratedTokens"]))
            for r in csv.DictReader(file)
        ]
    return [Ask((at - rows[0][0]).total_seconds(), tokens, answer) for at, tokens, answer in rows]


def mooncake(folder: Path) -> list[Ask]:
    """`mooncake_synthetic_trace.jsonl.gz` of kvcache-ai/Mooncake."""
    with gzip.open(folder / "mooncake_synthetic_trace.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return [Ask(r["timestamp"] / 1000, r["input_length"], r["output_length"], tuple(r["hash_ids"])) for r in rows]


def half(asks: Sequence[Ask], which: int) -> list[Ask]:
    """The first (1) or the second (2) half of the time."""
    middle = asks[-1].at / 2
    if which == 1:
        return [ask for ask in asks if ask.at < middle]
    rest = [ask for ask in asks if ask.at >= middle]
    return [replace(ask, at=ask.at - rest[0].at) for ask in rest]


def stretched(asks: Sequence[Ask], factor: float) -> list[Ask]:
    """The same requests in `factor` times the time."""
    return [replace(ask, at=ask.at * factor) for ask in asks]


def reordered(asks: Sequence[Ask], block_s: float, seed: int) -> list[Ask]:
    """The same requests, blocks of `block_s` seconds of them in an order by chance."""
    blocks = defaultdict[int, list[Ask]](list)
    for ask in asks:
        blocks[int(ask.at // block_s)].append(ask)
    order = list(range(max(blocks) + 1))
    random.Random(seed).shuffle(order)
    return [replace(ask, at=ask.at + (i - was) * block_s) for i, was in enumerate(order) for ask in blocks[was]]
