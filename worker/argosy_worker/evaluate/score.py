"""Log-probabilities that a model gives to texts, and what follows from them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from argosy_api.errors import InternalError
from argosy_api.params import SamplingParams
from argosy_worker.compute.loaded import LoadedModel
from argosy_worker.core.batch import SequenceSlice, StepBatch, StepOutput

BLOCK, CHUNK = 16, 256
Progress = Callable[[str, float], None]
"""Told (stage, fraction of it in 0 .. 1)."""


def silent(stage: str, fraction: float) -> None:
    """Tell nobody."""
    del stage, fraction


@dataclass(frozen=True, slots=True)
class Scores:
    """Of every token of some texts but the first of each, teacher-forced."""

    logprobs: Tensor
    """Natural logs, fp32 [tokens]."""
    best: Tensor
    """The most likely token at each place, int64 [tokens]."""

    @property
    def perplexity(self) -> float:
        """Exp of the mean negative log-probability."""
        return math.exp(-self.logprobs.double().mean().item())


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close a model is to a reference, on the same texts."""

    perplexity: float
    """The perplexity over the reference's, less 1."""
    logprobs: float
    """Mean absolute difference of the tokens' log-probabilities."""
    best: float
    """Part of the places where both find the same token most likely."""


def score(model: LoadedModel, texts: Sequence[Sequence[int]], *, progress: Progress = silent) -> Scores:
    """Run texts through the model, and collect what it gives to their tokens.

    Raises:
        InternalError: the model computed a value that is no number.

    """
    params = SamplingParams(prompt_logprobs=1)
    found = [one for output in _run(model, texts, params, "perplexity", progress) for one in output.prompt_logprobs]
    return Scores(torch.tensor([one.logprob for one in found]), torch.tensor([one.top[0][0] for one in found]))


def feed(model: LoadedModel, texts: Sequence[Sequence[int]], *, progress: Progress = silent) -> None:
    """Run texts through the layers alone. Raises InternalError like `score`."""
    for _ in _run(model, texts, SamplingParams(), "calibration", progress):
        pass


def _run(
    model: LoadedModel, texts: Sequence[Sequence[int]], params: SamplingParams, stage: str, progress: Progress
) -> Iterator[StepOutput]:
    blocks = max(-(-len(text) // BLOCK) for text in texts)
    runner = model.make_runner(blocks, BLOCK)
    for done, text in enumerate(texts):
        for at in range(0, len(text), CHUNK):
            part = SequenceSlice(
                request_id=stage,
                tokens=text[at : at + CHUNK],
                start=at,
                table=range(1, blocks + 1),
                sample_rows=range(0),
                params=params,
                prompt_targets=() if params.prompt_logprobs is None else text[at + 1 : at + CHUNK + 1],
            )
            output = runner.launch(StepBatch([part])).result()[0]
            if output.error is not None:
                raise InternalError(output.error)
            yield output
        progress(stage, (done + 1) / len(texts))


def agreement(found: Scores, reference: Scores) -> Agreement:
    """Compare scores of the same texts."""
    return Agreement(
        perplexity=found.perplexity / reference.perplexity - 1,
        logprobs=(found.logprobs - reference.logprobs).abs().mean().item(),
        best=(found.best == reference.best).double().mean().item(),
    )
