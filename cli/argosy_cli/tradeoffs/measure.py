"""The figures of one setup."""

import asyncio
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argosy_api.v1 import worker_pb2 as pb
from argosy_cli.tradeoffs.worker import Answer, MeasuredWorker

STREAMS = 16
PROMPT, NEW, LONG = 64, 64, 480
"""Tokens of a prompt, tokens generated after it, tokens of the long prompt."""
SEQUENCES, LENGTH = 16, 256
"""Of the text for perplexity."""
ROUNDS, ALONE = 3, 8
"""Runs that a rate is the median of; those of one stream are short and differ by their text, so there are more."""

Said = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured. Rates in tokens per second."""

    resident_bytes: int
    """Of the worker's process, after all of it."""
    kv_bytes_per_token: int
    one_stream: float
    many_streams: float
    """All of STREAMS together."""
    prefill: float
    perplexity: float
    change: float
    """Of the perplexity, against the reference: 0.01 is 1 % more."""
    agreement: float
    """Part of the places of the text where the most likely token is the reference's."""
    weights: str
    compute: str
    """As the worker says: how the file stores them, and the arithmetic."""


async def own_text(worker: MeasuredWorker, seed: int) -> list[list[int]]:
    """Sequences that the model samples at temperature 1: a text without a file and without a licence.

    Every other one begins with the token that begins texts, where there is one, the others with tokens spread over the
    vocabulary. The reference is the best that can be on it: its tokens have the probabilities that it gives them.
    """
    step = max(1, worker.info.vocab_size // SEQUENCES)
    first = [i * step for i in range(SEQUENCES)]
    if worker.info.HasField("bos_token_id"):
        first[::2] = [worker.info.bos_token_id] * len(first[::2])

    async def one(i: int) -> list[int]:
        sampling = pb.SamplingParams(max_tokens=LENGTH - 1, temperature=1, seed=seed * 1000 + i, ignore_eos=True)
        return [first[i], *(await worker.ask([first[i]], sampling)).tokens]

    return list(await asyncio.gather(*map(one, range(SEQUENCES))))


async def scores(worker: MeasuredWorker, texts: Sequence[Sequence[int]]) -> list[tuple[float, int]]:
    """For each token of each text but the first: its log-probability, and the most likely token there."""
    sampling = pb.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=1)
    return [one for text in texts for one in (await worker.ask(text, sampling)).prompt]


def perplexity(found: Sequence[tuple[float, int]]) -> float:
    """Exp of the mean negative log-probability."""
    return math.exp(-statistics.fmean(logprob for logprob, _ in found))


def agreement(found: Sequence[tuple[float, int]], reference: Sequence[tuple[float, int]]) -> float:
    """Part of the places where both find the same token most likely."""
    return statistics.fmean(ours[1] == theirs[1] for ours, theirs in zip(found, reference, strict=True))


async def measure(
    worker: MeasuredWorker,
    texts: Sequence[Sequence[int]],
    reference: Sequence[tuple[float, int]] | None,
    say: Said,
) -> tuple[Figures, list[tuple[float, int]]]:
    """All figures of a worker, and its scores of the texts; without a reference it is the reference itself."""
    say("warming up")
    await _generate(worker, texts[0][:PROMPT], 8)
    say("one stream")
    one = [_rate(await _generate(worker, text[:PROMPT], NEW)) for text in texts[:ALONE]]
    say(f"{STREAMS} streams")
    many = [await _together(worker, texts) for _ in range(ROUNDS)]
    say("prefill")
    long = [_long_prompt(texts, i) for i in range(ROUNDS)]
    prefill = [len(prompt) / (await _generate(worker, prompt, 1)).times[0] for prompt in long]
    say("perplexity")
    found = await scores(worker, texts)
    beside = found if reference is None else reference
    info = worker.info
    figures = Figures(
        resident_bytes=worker.resident_bytes,
        kv_bytes_per_token=info.kv_block_bytes // info.block_size,
        one_stream=statistics.median(one),
        many_streams=statistics.median(many),
        prefill=statistics.median(prefill),
        perplexity=perplexity(found),
        change=perplexity(found) / perplexity(beside) - 1,
        agreement=agreement(found, beside),
        weights=info.quantization,
        compute=info.compute,
    )
    return figures, found


def _long_prompt(texts: Sequence[Sequence[int]], i: int) -> list[int]:
    """Two texts, one after the other."""
    return [*texts[2 * i % len(texts)], *texts[(2 * i + 1) % len(texts)]][:LONG]


async def _generate(worker: MeasuredWorker, prompt: Sequence[int], count: int) -> Answer:
    return await worker.ask(prompt, pb.SamplingParams(max_tokens=count, temperature=0, ignore_eos=True))


def _rate(answer: Answer) -> float:
    """Tokens per second from the first token to the last; those that came with the first have no time of their own."""
    first, last = answer.times[0], answer.times[-1]
    later = sum(time > first for time in answer.times)
    return later / (last - first) if later else math.nan


async def _together(worker: MeasuredWorker, texts: Sequence[Sequence[int]]) -> float:
    """Generated tokens per second of STREAMS requests that start together, from the start to the last token of all."""
    prompts = [texts[i % len(texts)][:PROMPT] for i in range(STREAMS)]
    answers = await asyncio.gather(*(_generate(worker, prompt, NEW) for prompt in prompts))
    return sum(len(answer.tokens) for answer in answers) / max(answer.times[-1] for answer in answers)
