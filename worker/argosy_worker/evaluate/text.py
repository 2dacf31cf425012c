"""Texts for calibration and perplexity, as token ids.

A model's own text needs no file and no licence: sampled from the model itself at temperature 1, its tokens have the
probabilities that the model gives them. So the mean log-probability that another model (the same one, quantized) loses
on it is an unbiased estimate of the Kullback-Leibler divergence between the two, and the original is the best that can
be. A text of one's own, in a file, says what is lost on that kind of text.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from argosy_api import limits
from argosy_api.errors import InternalError, InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_worker.compute.loaded import LoadedModel
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.core.facts import ModelFacts

BLOCK = 16
Progress = Callable[[str, float], None]


def own_text(model: LoadedModel, *, sequences: int, length: int, seed: int, progress: Progress) -> list[list[int]]:
    """Sequences of `length` tokens that the model samples at temperature 1, in one batch.

    Every other one begins with the token that begins texts, where the model has one; the rest with tokens at random.
    The same seed gives the same texts.
    """
    facts = model.facts
    rng = random.Random(seed)
    first = [rng.randrange(facts.vocab_size) for _ in range(sequences)]
    if facts.bos_token_id is not None:
        first[::2] = [facts.bos_token_id] * len(first[::2])
    texts = [[token] for token in first]
    blocks = -(-length // BLOCK)
    runner = model.make_runner(sequences * blocks, BLOCK)
    params = [SamplingParams(temperature=1.0, seed=seed * 1000 + i) for i in range(sequences)]
    for at in range(length - 1):
        batch = [
            SequenceSlice(
                request_id=str(i),
                tokens=(text[-1],),
                start=at,
                table=range(1 + i * blocks, 1 + (i + 1) * blocks),
                sample_rows=range(1),
                params=params[i],
            )
            for i, text in enumerate(texts)
        ]
        for text, output in zip(texts, runner.launch(StepBatch(batch)).result(), strict=True):
            if output.error is not None:
                raise InternalError(output.error)
            text.extend(output.tokens)
        progress("sampling text", (at + 1) / (length - 1))
    return texts


def file_text(path: Path, facts: ModelFacts, *, field: str, length: int, most: int) -> list[list[int]]:
    """A UTF-8 file as sequences of `length` tokens, at most `most` of them; a shorter rest at the end is left out.

    Raises:
        InvalidArgumentError: naming `field`: it cannot be read, is no UTF-8, too large, or shorter than one sequence.

    """
    try:
        with path.open("rb") as file:
            raw = file.read(limits.MAX_PROMPT_BYTES + 1)
    except OSError as error:
        raise InvalidArgumentError(field, f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > limits.MAX_PROMPT_BYTES:
        raise InvalidArgumentError(field, f"{path} has more than {limits.MAX_PROMPT_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(field, f"{path} is not UTF-8") from error
    ids = Tokenizer.from_str(facts.tokenizer_json.decode()).encode(text).ids
    if len(ids) < length:
        raise InvalidArgumentError(field, f"{path} has {len(ids)} tokens; at least {length} are needed")
    return [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)][:most]


def tokens_in(texts: Sequence[Sequence[int]]) -> int:
    """Tokens of all texts."""
    return sum(map(len, texts))
