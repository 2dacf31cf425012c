"""Kinds of rotary positions. No torch."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearRope:
    """All positions are divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.1's frequency scaling: long wavelengths are divided by `factor`, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnRope:
    """NTK by parts (YaRN, arXiv 2309.00071): slow pairs are divided by `factor`, fast ones kept, a ramp between."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether the ramp begins and ends at whole pairs."""
    attention_factor: float
    """Of the cosines and sines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorRope:
    """Each pair's frequency is divided by a factor of its own."""

    factors: tuple[float, ...]
    attention_factor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753): the long factors where sequences may exceed the original context, else the short.

    Keys are cached as they were turned, so one choice holds for all sequences of a loaded model.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original_context: int
    attention_factor: float


RopeScaling = LinearRope | Llama3Rope | YarnRope | FactorRope


@dataclass(frozen=True, slots=True)
class Rope:
    """How the positions of a layer turn its queries and keys."""

    theta: float
    dims: int
    """Leading numbers of a head that are turned."""
    scaling: RopeScaling | None = None


def factors_of(scaling: RopeScaling | LongRope | None) -> tuple[tuple[float, ...], ...]:
    """The lists of factors that a scaling has."""
    if isinstance(scaling, LongRope):
        return scaling.short, scaling.long
    return (scaling.factors,) if isinstance(scaling, FactorRope) else ()
