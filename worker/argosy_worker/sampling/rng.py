"""Counter-based random numbers: a pure function of (seed, position).

No state and no stream: the number for a token does not depend on the batch, on the row, on preemption or on the
replica. SplitMix64's finalizer (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), once over
the seed and once over its mix with the position; the top 53 bits make a double.
"""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = (z + _GOLDEN) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(seed: int, position: int) -> float:
    """A double in [0, 1) for the token at `position` of a request with this seed."""
    return (_mix(_mix(seed & _MASK) ^ position) >> 11) * 2.0**-53
