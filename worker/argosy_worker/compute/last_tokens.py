"""The tokens that the latest step samples, on the device: what placeholders of the next one stand for."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from argosy_worker.arrays import sent
from argosy_worker.core.batch import PLACEHOLDER, SequenceSlice


class LastTokens:
    """Nothing here waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tokens = torch.empty(0, dtype=torch.int64, device=device)
        self._places: dict[str, int] = {}

    def note(self, slices: Sequence[SequenceSlice], tokens: Tensor) -> None:
        """A step was launched: int64 [rows that are sampled], on the device, one slice after another."""
        self._tokens, self._places, end = tokens, {}, 0
        for s in slices:
            end += len(s.sample_rows)
            if s.sample_rows and not s.draft:  # how many tokens come of a draft is not known, and nothing follows one
                self._places[s.request_id] = end - 1

    def note_known(self, tokens: Mapping[str, int]) -> None:
        """A step was computed, and sampled these."""
        self._places = {name: place for place, name in enumerate(tokens)}
        self._tokens = sent(np.array([*tokens.values()], dtype=np.int64), self._device)

    def correct(self, requests: Sequence[str], tokens: Tensor) -> None:
        """For these requests of the latest step other tokens are right: int64, one for each."""
        places = np.array([self._places[name] for name in requests], dtype=np.int64)
        self._tokens = self._tokens.index_copy(0, sent(places, self._device), tokens)

    def filled(self, slices: Sequence[SequenceSlice]) -> Tensor:
        """The tokens of all slices, int64 [rows] on the device, with those of the latest step for placeholders.

        Raises:
            ValueError: that step has sampled none for one of them.

        """
        tokens = np.concatenate([np.asarray(s.tokens, dtype=np.int64) for s in slices])
        found: Tensor = sent(tokens, self._device)
        at = np.flatnonzero(tokens == PLACEHOLDER)
        if not len(at):
            return found
        both = sent(np.stack((at, self._sampled(slices))), self._device)
        return found.index_copy(0, both[0], self._tokens.index_select(0, both[1]))

    def _sampled(self, slices: Sequence[SequenceSlice]) -> npt.NDArray[np.int64]:
        asked = [s.request_id for s in slices if s.tokens[0] == PLACEHOLDER]
        missing = [name for name in asked if name not in self._places]
        if missing:
            raise ValueError(f"tokens: the step before sampled none for {missing[0]!r}, whose slice has a placeholder")
        return np.array([self._places[name] for name in asked], dtype=np.int64)
