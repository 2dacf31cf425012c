"""Perplexity of the sides of `cpu.py`, on one text: nobody shall be fast by being wrong."""

import argparse
import asyncio
import inspect
import json
import math
import statistics
import unittest.mock
from pathlib import Path

from cpu_report import Row
from cpu_seen import Prompts, Side
from tokenizers import Tokenizer

WINDOW, WINDOWS = 256, 4


def texts(path: str) -> Prompts:
    """English about programming: documentation of the standard library, by the model's own tokenizer."""
    from argosy_worker.models.gguf import GgufFile
    from argosy_worker.models.gguf_config import read_config
    from argosy_worker.models.gguf_tokenizer import read_tokenizer

    with GgufFile(Path(path)) as file:
        facts = read_tokenizer(file.metadata, read_config(file).vocab_size)
    tokenizer = Tokenizer.from_str(facts.tokenizer_json.decode())
    things = (argparse, asyncio, json, statistics, unittest.mock)
    docs = [inspect.getdoc(of) or "" for thing in things for of in (thing, *vars(thing).values()) if callable(of)]
    ids = tokenizer.encode("\n\n".join(docs)).ids
    return [ids[i * WINDOW : (i + 1) * WINDOW] for i in range(WINDOWS)]


async def perplexity(sides: dict[str, Side], reference: str, path: str) -> Row:
    """What each side loses against the reference: exp of the mean loss of log-probability, less 1; in percent."""
    asked = texts(path)
    found = {name: await side.score(asked) for name, side in sides.items() if side.score is not None}
    row = Row("perplexity", "over fp32 of the same weights, %", True, {})
    for name, logprobs in found.items():
        losses = [a - b for a, b in zip(found[reference], logprobs, strict=True) if not math.isnan(b)]
        error = statistics.stdev(losses) / math.sqrt(len(losses)) if name != reference else 0.0
        row.values[name] = [100 * math.expm1(statistics.fmean(losses))]
        mean = statistics.fmean(x for x in logprobs if not math.isnan(x))
        print(
            f"  perplexity of {name}: {math.exp(-mean):.4f}, over fp32 {row.values[name][0]:+.3f} % ± {100 * error:.3f}"
        )
    return row
