"""Prompts of about so many tokens, the same for every server and from run to run. Pure."""

import random

WORDS = (
    "the", "and", "of", "to", "in", "is", "that", "it", "was", "on", "are", "with", "as", "be", "at", "one", "have",
    "this", "from", "or", "had", "by", "not", "but", "some", "what", "there", "we", "out", "other", "all", "when",
    "up", "use", "word", "how", "said", "an", "each", "time", "if", "will", "way", "about", "many", "then", "them",
    "write", "like", "so", "these", "her", "long", "make",
)  # fmt: skip
"""Short common words, of which most tokenizers make one token each."""
_ENDING = "Tell a long story about this."


def prompts(count: int, *, tokens: int, shared: float, seed: int, part: str = "") -> list[str]:
    """Texts of about `tokens` tokens, of which the leading `shared` part (0 to 1) is that of all texts of the seed.

    What is not shared is new in each text and each `part`, so that no cache helps with it.
    """
    words = max(1, tokens - len(_ENDING.split()))
    common = round(words * shared)
    head = _words(random.Random(f"{seed} head"), common)
    rest = [_words(random.Random(f"{seed} {part} {number}"), words - common) for number in range(count)]
    return [" ".join([*head, *own, _ENDING]) for own in rest]


def _words(source: random.Random, count: int) -> list[str]:
    return source.choices(WORDS, k=count)
