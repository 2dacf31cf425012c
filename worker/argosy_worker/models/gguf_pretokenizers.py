"""How byte-level BPE tokenizers of GGUF files cut a text before the merges, by the name in `tokenizer.ggml.pre`.

The names, and what they stand for, are llama.cpp's (llama-vocab.cpp): expressions that are applied one after the other,
each to what the ones before left over, and whether a whole piece that is a token is taken at once. Where llama.cpp only
comes near a model's own expression (gpt-4o, tekken: it knows upper and lower case of ASCII alone) the model's own is
taken. Normalization is no part of a GGUF file; it is known of Qwen's tokenizers, which compose characters first.
"""

from dataclasses import dataclass
from typing import Any

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
"""GPT-2's expression, then bytes as characters."""
_BYTES_ONLY = {**BYTES, "use_regex": False}
_NFC = {"type": "NFC"}

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _WORDS + r"|\p{N}{1,3}" + _REST
_QWEN2 = _WORDS + r"|\p{N}" + _REST
_QWEN35 = (
    _ENDINGS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)  # fmt: skip
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"


def _cased(endings: str, digits: str) -> str:
    """Words are cut where lower case becomes upper case."""
    start = r"[^\r\n\p{L}\p{N}]?"
    words = rf"{start}{_UPPER}*{_LOWER}+{endings}|{start}{_UPPER}+{_LOWER}*{endings}"
    return rf"{words}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_GPT4O = _cased(_ENDINGS + "?", r"\p{N}{1,3}")
_ASCII_MARKS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    _ASCII_MARKS + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CJK = "[一-龥\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to cut."""

    steps: list[dict[str, Any]]
    """Components of a `tokenizer.json`, in order."""
    ignore_merges: bool = False
    """Whether a piece that is a token is taken whole, even where the merges would not lead to it."""
    add_bos: bool = False
    """Whether texts begin with the token for it, where the file does not say."""
    normalizer: dict[str, Any] | None = None


def _cut(*expressions: str, **options: Any) -> PreTokenizer:
    steps = [_split(expression) for expression in expressions]
    return PreTokenizer([*steps, _BYTES_ONLY], **options)


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


_PLAIN = PreTokenizer([BYTES])
_DIGITS = PreTokenizer([{"type": "Digits", "individual_digits": True}, BYTES])
_LLAMA = _cut(_LLAMA3, ignore_merges=True, add_bos=True)
_QWEN = _cut(_QWEN2, normalizer=_NFC)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"), _PLAIN),
    **dict.fromkeys(("gigachat", "a.x-4.0", "mellum"), _PLAIN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _cut(_LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo"), _QWEN),
    **dict.fromkeys(("stablelm2", "megrez", "hunyuan", "solar-open", "grok-2"), _cut(_QWEN2)),
    "qwen35": _cut(_QWEN35, normalizer=_NFC),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _cut(_GPT4O)),
    "tekken": _cut(_cased("", r"\p{N}"), ignore_merges=True, add_bos=True),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _cut(*_DEEPSEEK3)),
    "deepseek-coder": _cut(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"),
    "falcon": _cut(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "default": _cut(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), _cut(_BLOOM)),
    "viking": _cut(_BLOOM, r"\p{N}"),
    "seed-coder": _cut(
        _WORDS + r"|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    **dict.fromkeys(
        ("bailingmoe", "bailingmoe2", "llada-moe"),
        _cut(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"),
    ),
}
"""By name. `deepseek-llm`, `chameleon`, `kimi-k2`, `superbpe`, `afmoe`, `gemma4` and others are not known here."""
