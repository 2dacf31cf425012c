"""Who looks at logits and picks tokens, as runners see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from argosy_worker.arrays import Array
from argosy_worker.core.batch import TokenLogprob
from argosy_worker.sampling.rows import Row


@dataclass(frozen=True, slots=True)
class Sampler:
    """Logits are fp32 [n, vocab], and stay as they are."""

    healthy: Callable[[Array], list[bool]]
    """Whether each row, as the model gave it, is finite."""
    pick: Callable[[Array, Sequence[Row]], list[int]]
    """A token for each row; all rows are healthy."""
    logprobs: Callable[[Array, Sequence[int], Sequence[int]], list[TokenLogprob]]
    """Log-probability of `tokens[i]` and of the `tops[i]` best tokens under row i."""
