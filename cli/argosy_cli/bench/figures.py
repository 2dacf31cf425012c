"""From requests to figures. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from argosy_cli.bench.server import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The requests of one level to one server, one after the other on so many connections."""

    seconds: float
    samples: tuple[Sample, ...]

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of all connections together."""
        return sum(sample.tokens for sample in self.samples if not sample.failure) / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of all rounds of one level and one server. Milliseconds; percentiles of the requests that were answered."""

    requests: int
    failed: int
    failures: tuple[str, ...]
    """The commonest reasons, with how often."""
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    """Between two pieces of an answer."""
    itl_p99: float
    tpot: float
    """Per token after the first, the mean of a request, its median."""
    tokens_per_second: float
    """Median of the rounds."""
    requests_per_second: float
    prompt_tokens: float
    """Mean; 0 where the server does not tell."""
    cached: float
    """Of the prompts' tokens, 0 to 1."""
    output_tokens: float


def figures(rounds: Sequence[Round]) -> Figures:
    """Of at least one round."""
    samples = [sample for one in rounds for sample in one.samples]
    good = [sample for sample in samples if not sample.failure]
    gaps = [gap for sample in good for gap in sample.gaps_s]
    prompt = sum(sample.prompt_tokens for sample in good)
    reasons = Counter(sample.failure for sample in samples if sample.failure).most_common(3)
    return Figures(
        requests=len(samples),
        failed=len(samples) - len(good),
        failures=tuple(f"{count} times: {reason}" for reason, count in reasons),
        ttft_p50=1000 * percentile([sample.first_s for sample in good], 50),
        ttft_p95=1000 * percentile([sample.first_s for sample in good], 95),
        itl_p50=1000 * percentile(gaps, 50),
        itl_p99=1000 * percentile(gaps, 99),
        tpot=1000 * percentile([(s.took_s - s.first_s) / (s.tokens - 1) for s in good if s.tokens > 1], 50),
        tokens_per_second=median(one.tokens_per_second for one in rounds),
        requests_per_second=len(good) / sum(one.seconds for one in rounds),
        prompt_tokens=prompt / len(good) if good else 0.0,
        cached=sum(sample.cached_tokens for sample in good) / prompt if prompt else 0.0,
        output_tokens=sum(sample.tokens for sample in good) / len(good) if good else 0.0,
    )


@dataclass(frozen=True, slots=True)
class Ratio:
    """First server over peer, round by round: they ran beside each other."""

    middle: float
    least: float
    most: float


def ratio(ours: Sequence[Round], theirs: Sequence[Round]) -> Ratio | None:
    """Of generated tokens per second; None where a round of the peer's has none."""
    if not all(one.tokens_per_second for one in theirs):
        return None
    each = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, theirs, strict=True)]
    return Ratio(median(each), min(each), max(each))


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(1, -(-len(ordered) * percent // 100)) - 1]
